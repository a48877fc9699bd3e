//! The `clustor` command: parses the command line, runs one subcommand, ends with its exit code.

use std::io::{self, ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};
use clustor_shards::log::header::FORMAT_VERSION;
use clustor_shards::log::record::RECORD_VERSION;
use clustor_tools::certs::{self, CertsArgs};
use clustor_tools::client_commands::{
    self, AppendArgs, MemberArgs, ModeArgs, ReadArgs, StatusArgs,
};
use clustor_tools::demo::{self, DemoArgs};
use clustor_tools::exit::{CommandError, EXIT_HELP, Exit};
use clustor_tools::host::{self, HostArgs};
use clustor_tools::inspect::{self, InspectArgs};
use clustor_tools::probe::{self, ProbeArgs};
use clustor_tools::profile::{self, ProfileArgs};
use clustor_tools::scrub::{self, ScrubArgs};
use clustor_tools::serve::{self, ServeArgs};
use clustor_wire::frame::PROTOCOL_VERSION;
use signal_hook::consts::SIGPIPE;
use signal_hook::low_level::emulate_default_handler;

/// Clustor: a replication engine that makes an ordered log durable on a quorum of machines.
#[derive(Debug, Parser)]
#[command(name = "clustor", version, long_version = long_version(), after_help = EXIT_HELP, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Certs(CertsArgs),
    Demo(DemoArgs),
    Host(HostArgs),
    Inspect(InspectArgs),
    Scrub(ScrubArgs),
    Probe(ProbeArgs),
    Profile(ProfileArgs),
    Serve(ServeArgs),
    Append(AppendArgs),
    Read(ReadArgs),
    Status(StatusArgs),
    Mode(ModeArgs),
    Member(MemberArgs),
}

/// What `--version` says: this build, and what it speaks and writes.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\nwire protocol {PROTOCOL_VERSION}\nlog files {FORMAT_VERSION}\nrecord frames {RECORD_VERSION}",
            env!("CARGO_PKG_VERSION")
        )
    });
    &TEXT
}

/// Standard output, which notes that nobody reads it any more (`clustor inspect DIR | head`).
struct Output<W> {
    inner: W,
    is_gone: bool,
}

impl<W: Write> Output<W> {
    fn note<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &done {
            self.is_gone |= error.kind() == ErrorKind::BrokenPipe;
        }
        done
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.inner.write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.inner.flush();
        self.note(done)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Output {
        inner: stdout().lock(),
        is_gone: false,
    };
    let result = match &arguments.command {
        Command::Certs(args) => certs::run(args, &mut out),
        Command::Demo(args) => demo::run(args, &mut out),
        Command::Host(args) => host::run(args, &mut out),
        Command::Inspect(args) => inspect::run(args, &mut out),
        Command::Scrub(args) => scrub::run(args, &mut out),
        Command::Probe(args) => probe::run(args, &mut out),
        Command::Profile(args) => profile::run(args, &mut out),
        Command::Serve(args) => serve::run(args, &mut out),
        Command::Append(args) => client_commands::append(args, &mut out),
        Command::Read(args) => client_commands::read(args, &mut out),
        Command::Member(args) => client_commands::member(args, &mut out),
        Command::Mode(args) => client_commands::mode(args, &mut out),
        Command::Status(args) => client_commands::status(args, &mut out),
    };
    let result = result.and_then(|()| out.flush().map_err(CommandError::failed));
    if out.is_gone {
        // As other commands in a pipe end, and without a word. Until here the signal is ignored, for the sake of sockets.
        if let Err(error) = emulate_default_handler(SIGPIPE) {
            let _ = writeln!(stderr(), "clustor: {error}");
        }
    }
    match result {
        Ok(()) => ExitCode::from(Exit::Done as u8),
        Err(error) => {
            // Nobody is left to tell if stderr is gone; the exit code says it too.
            let _ = writeln!(stderr(), "clustor: {error}");
            ExitCode::from(error.exit as u8)
        }
    }
}
