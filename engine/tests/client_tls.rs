//! The client's thread, end to end: TLS over loopback to nodes that answer by script.
#![cfg(feature = "net")]

mod client_support;

use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client_support::server::{Action, Ca, start};
use client_support::{P, applied, at, bare_status, index_needed, not_leader, placement};
use clustor_engine::client::{AppendWith, Client, ClientConfig, ClientError, Keying};
use clustor_engine::outcome::{AppendError, IdempotencyKey, RefusalClause, describe};
use clustor_engine::security::TlsIdentity;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{ClientRequest, ClientRequestBody, ClientResponseBody};

fn connect(identity: TlsIdentity, addresses: &[SocketAddr]) -> Client {
    Client::connect(ClientConfig::new(placement(addresses), identity)).expect("a client")
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A leader that counts its log up and wants indexes with keys.
fn leader(node: u64) -> impl Fn(&ClientRequest) -> Action + Send + Sync + 'static {
    let last = AtomicU64::new(10);
    move |request| {
        Action::Answer(match &request.body {
            ClientRequestBody::Append {
                key: Some((_, None)),
                ..
            } => index_needed(last.load(Ordering::SeqCst)),
            ClientRequestBody::Append { .. } => applied(last.fetch_add(1, Ordering::SeqCst) + 1),
            ClientRequestBody::Read {
                partition,
                level,
                query,
            } => ClientResponseBody::Read {
                partition: *partition,
                level: *level,
                term: Term(3),
                index: LogIndex(last.load(Ordering::SeqCst)),
                reply: query.iter().rev().copied().collect(),
            },
            _ => bare_status(at(node)),
        })
    }
}

fn follower(node: u64, names: u64) -> impl Fn(&ClientRequest) -> Action + Send + Sync + 'static {
    move |request| {
        Action::Answer(match request.body {
            ClientRequestBody::Status { .. } => bare_status(at(node)),
            _ => not_leader(Some(names)),
        })
    }
}

#[test]
fn appends_reads_and_status_find_their_way_to_the_leader() {
    let ca = Ca::new();
    let first = start(ca.identity("node/1", &ca), follower(1, 2));
    let second = start(ca.identity("node/2", &ca), leader(2));
    let client = connect(ca.identity("client/kv", &ca), &[first, second, nobody()]);
    let done = client.append(P, *b"+3").wait().expect("applied");
    assert_eq!(
        (done.term, done.index, done.reply),
        (Term(3), LogIndex(11), b"ok".to_vec())
    );
    let done = futures_lite::future::block_on(client.append(P, *b"+4")).expect("applied");
    assert_eq!(done.index, LogIndex(12));
    let read = client.read(P, *b"abc", None).wait().expect("read");
    assert_eq!((read.index, read.reply), (LogIndex(12), b"cba".to_vec()));
    let mut told = client.status_all(Some(Duration::from_secs(5))).into_iter();
    let mut next = || {
        let (of, status) = told.next().expect("three shards");
        (of, status.wait())
    };
    assert!(matches!(next(), (of, Ok(status)) if of == at(1) && status.node == of.node));
    assert!(matches!(next(), (of, Ok(status)) if of == at(2) && status.node == of.node));
    assert!(matches!(next(), (of, Err(_)) if of == at(3)));
    client.close();
}

#[test]
fn an_append_cut_off_is_sent_again_with_the_same_key_and_index() {
    let ca = Ca::new();
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let node = start(ca.identity("node/1", &ca), move |request| {
        match &request.body {
            ClientRequestBody::Append {
                key: Some((_, None)),
                ..
            } => Action::Answer(index_needed(7)),
            ClientRequestBody::Append { key, .. } => {
                let mut seen = log.lock().expect("no panic");
                seen.push(*key);
                if seen.len() == 1 {
                    Action::CutOff
                } else {
                    Action::Answer(applied(9))
                }
            }
            _ => Action::Answer(bare_status(at(1))),
        }
    });
    let client = connect(ca.identity("client/kv", &ca), &[node]);
    let key = IdempotencyKey(77);
    let done = client
        .append_keyed(P, *b"x", key, None)
        .wait()
        .expect("applied");
    assert_eq!(done.index, LogIndex(9));
    let expected = Some((key, Some(LogIndex(7))));
    assert_eq!(*seen.lock().expect("no panic"), [expected, expected]);
}

#[test]
fn one_thread_has_thousands_under_way_and_all_are_answered() {
    let ca = Ca::new();
    let node = start(ca.identity("node/1", &ca), leader(1));
    let client = connect(ca.identity("client/kv", &ca), &[node]);
    let mut pending: Vec<_> = (0..8000).map(|_| client.append(P, vec![7; 100])).collect();
    let until = Instant::now() + Duration::from_secs(60);
    let mut indexes = Vec::new();
    while !pending.is_empty() {
        assert!(Instant::now() < until, "{} are unanswered", pending.len());
        pending.retain_mut(|pending| match pending.try_take() {
            None => true,
            Some(done) => {
                indexes.push(done.expect("applied").index.get());
                false
            }
        });
        std::thread::sleep(Duration::from_millis(1));
    }
    indexes.sort_unstable();
    assert!(indexes.into_iter().eq(11..8011), "each executed once");
}

#[test]
fn a_node_that_hangs_leaves_the_append_unknown_at_its_deadline() {
    let ca = Ca::new();
    let node = start(ca.identity("node/1", &ca), |request| match request.body {
        ClientRequestBody::Status { .. } => Action::Answer(bare_status(at(1))),
        _ => Action::Hang,
    });
    let client = connect(ca.identity("client/kv", &ca), &[node]);
    let with = AppendWith {
        keying: Keying::Retry(IdempotencyKey(5), LogIndex(4)),
        timeout: Some(Duration::from_millis(300)),
        only_in: None,
    };
    let begun = Instant::now();
    match client.append_with(P, *b"x", with).wait() {
        Err(AppendError::Unknown {
            key, wal_committed, ..
        }) => {
            assert_eq!((key, wal_committed), (Some(IdempotencyKey(5)), LogIndex(4)));
        }
        other => panic!("unknown, got {other:?}"),
    }
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_certificate_that_the_node_refuses_executes_nothing_and_says_so() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let node = start(ca.identity("node/1", &ca), leader(1));
    // It trusts the node's CA, but the node does not trust its.
    let client = connect(stranger.identity("client/kv", &ca), &[node]);
    let with = AppendWith {
        keying: Keying::None,
        timeout: Some(Duration::from_millis(500)),
        only_in: None,
    };
    match client.append_with(P, *b"x", with).wait() {
        Err(AppendError::NotExecuted { refusal }) => {
            assert_eq!(refusal.clause, RefusalClause::Untrusted);
            assert!(refusal.message.contains("TLS"), "{}", refusal.message);
            let told = describe(&refusal);
            assert!(told.contains("CA and placement of one cluster"), "{told}");
        }
        other => panic!("not executed, got {other:?}"),
    }
}

#[test]
fn a_node_that_is_another_one_is_not_spoken_to() {
    let ca = Ca::new();
    let node = start(ca.identity("node/2", &ca), leader(2));
    let client = connect(ca.identity("client/kv", &ca), &[node]);
    match client.status(at(1), None, None).wait() {
        Err(error) => assert!(error.to_string().contains("node/2"), "{error}"),
        Ok(status) => panic!("no status, got {status:?}"),
    }
}

#[test]
fn closing_answers_what_is_under_way_and_refuses_what_comes_later() {
    let ca = Ca::new();
    let node = start(ca.identity("node/1", &ca), |request| match request.body {
        ClientRequestBody::Status { .. } => Action::Answer(bare_status(at(1))),
        _ => Action::Hang,
    });
    let client = connect(ca.identity("client/kv", &ca), &[node]);
    let other = client.clone();
    let pending = client.append_keyed(P, *b"x", IdempotencyKey(1), Some(LogIndex(1)));
    client.close();
    assert!(matches!(pending.wait(), Err(AppendError::Unknown { .. })));
    match other.append(P, *b"y").wait() {
        Err(AppendError::NotExecuted { refusal }) => {
            assert_eq!(refusal.clause, RefusalClause::Closed);
        }
        other => panic!("stopping, got {other:?}"),
    }
}

#[test]
fn a_certificate_of_another_cluster_is_refused_before_anything_is_dialled() {
    let ca = Ca::new();
    let placement = placement(&[nobody()]);
    let stranger = ca.identity_in("other.example", "client/kv", &ca);
    match Client::connect(ClientConfig::new(placement, stranger)) {
        Err(ClientError::WrongTrustDomain { certificate, .. }) => {
            assert_eq!(certificate, "other.example");
        }
        other => panic!("refused, got {other:?}"),
    }
}
