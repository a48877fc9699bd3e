//! TCP sockets and addresses in the kernel's form.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A TCP socket of the address's family, not connected.
///
/// # Errors
/// When the process has no descriptor left, or the family is not there.
pub fn tcp_socket(to: SocketAddr) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: takes three integers, returns a new descriptor or -1.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was returned by the call above and nobody else owns it.
    Ok(TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Another descriptor of what `owner` holds.
///
/// # Errors
/// When the process has no descriptor left.
pub fn duplicate(owner: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `owner` keeps the descriptor open while it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }.try_clone_to_owned()
}

/// A socket address as the kernel reads it.
#[derive(Clone, Copy)]
pub enum RawAddress {
    /// None.
    None,
    /// Of the fourth version.
    V4(libc::sockaddr_in),
    /// Of the sixth version.
    V6(libc::sockaddr_in6),
}

impl RawAddress {
    /// No address.
    #[must_use]
    pub const fn none() -> Self {
        Self::None
    }

    /// `address` in the kernel's form.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Self::V6(libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }

    /// Where it lies; null for none.
    #[must_use]
    pub const fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Self::None => std::ptr::null(),
            Self::V4(address) => (&raw const *address).cast(),
            Self::V6(address) => (&raw const *address).cast(),
        }
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn len(&self) -> u32 {
        let bytes = match self {
            Self::None => 0,
            Self::V4(_) => size_of::<libc::sockaddr_in>(),
            Self::V6(_) => size_of::<libc::sockaddr_in6>(),
        };
        u32::try_from(bytes).expect("addresses are short")
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}

fn family(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("families are small numbers")
}
