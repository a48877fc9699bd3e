//! The turn loop on real threads: requests, chains, deadlines, mesh messages, stopping.

mod ring_support;

use clustor_shards::buffer::{BLOCK_BYTES, Block, BlockPool, SizeClass};
use clustor_shards::disk::{DiskEvent, DiskOp, DurableChain, FlushKind, PreparePair};
use clustor_shards::runtime::{Boot, Node, NodeOptions, ShardPlan, StartError, StopError, start};
use clustor_shards::turn::{Application, Inbox, Outbox, Time};
use clustor_shards::uring::WriterChoice;
use clustor_wire::ids::{ChainNumber, PairNumber, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What a test asks a shard.
enum Ask {
    /// Answer at once with the number.
    Echo(u64, Sender<u64>),
    /// Answer when a block with the number is durable.
    Store(u64, Sender<u64>),
    /// Answer with the microseconds between a deadline this far ahead and the turn that met it.
    After(u64, Sender<u64>),
    /// Pass it on to another shard, which answers.
    Forward(ShardId, u64, Sender<u64>),
    /// Never say that anything has settled.
    Linger,
}

/// Who is answered what.
type Answer = (Sender<u64>, u64);

struct Bench {
    pool: BlockPool,
    ready: bool,
    next_chain: u64,
    waiting: VecDeque<Answer>,
    stored: BTreeMap<u64, Answer>,
    alarms: Vec<(Time, Sender<u64>)>,
    linger: bool,
    stopping_seen: bool,
}

const PAIR: PairNumber = PairNumber(1);
const BLOCKS: u32 = 1024;

impl Bench {
    fn new(boot: Boot<'_>) -> Self {
        Self {
            pool: boot.pool,
            ready: false,
            next_chain: 0,
            waiting: VecDeque::new(),
            stored: BTreeMap::new(),
            alarms: Vec::new(),
            linger: false,
            stopping_seen: false,
        }
    }

    fn store(&mut self, answer: Answer) -> DiskOp {
        let at = u32::try_from(self.next_chain % u64::from(BLOCKS)).expect("below the size");
        let fill = u8::try_from(answer.1 & 0xFF).expect("eight bits");
        let mut runs = [self.pool.take(1), self.pool.take(1)];
        for run in &mut runs {
            run.as_mut_slice().fill(Block([fill; BLOCK_BYTES]));
        }
        let [log, ledger] = runs;
        let chain = ChainNumber(self.next_chain);
        self.stored.insert(self.next_chain, answer);
        self.next_chain += 1;
        DiskOp::Chain(DurableChain {
            chain,
            pair: PAIR,
            log_block: at,
            log,
            ledger_block: at,
            ledger,
            flush: FlushKind::Fdatasync,
        })
    }

    fn completed(&mut self, event: DiskEvent, outbox: &mut Outbox<Answer, Answer>) {
        match event {
            DiskEvent::Prepared { .. } | DiskEvent::Progress { .. } => self.ready = true,
            DiskEvent::Chain {
                chain,
                log,
                ledger,
                outcome,
            } => {
                outcome.expect("the disk works");
                self.pool.put(log);
                self.pool.put(ledger);
                let answer = self.stored.remove(&chain.get()).expect("asked for");
                outbox.replies.push(answer);
            }
            DiskEvent::Advanced { .. } | DiskEvent::Used { .. } => {}
            other => panic!("not asked for: {other:?}"),
        }
    }
}

impl Application for Bench {
    type Request = Ask;
    type Reply = Answer;
    type Mesh = Answer;

    fn turn(&mut self, inbox: &mut Inbox<Ask, Answer>, outbox: &mut Outbox<Answer, Answer>) {
        for event in inbox.disk.drain(..) {
            self.completed(event, outbox);
        }
        for (_, answer) in inbox.mesh.drain(..) {
            outbox.replies.push(answer);
        }
        for request in inbox.requests.drain(..) {
            match request {
                Ask::Echo(number, to) => outbox.replies.push((to, number)),
                Ask::Store(number, to) => {
                    if self.next_chain == 0 && self.waiting.is_empty() && !self.ready {
                        outbox.disk.push(DiskOp::Prepare(PreparePair {
                            pair: PAIR,
                            segment_blocks: BLOCKS,
                            ledger_blocks: BLOCKS,
                        }));
                    }
                    self.waiting.push_back((to, number));
                }
                Ask::After(us, to) => self.alarms.push((inbox.now.plus_us(us), to)),
                Ask::Forward(shard, number, to) => outbox.mesh.push((shard, (to, number))),
                Ask::Linger => self.linger = true,
            }
        }
        while self.ready && self.stored.len() < 8 {
            let Some(answer) = self.waiting.pop_front() else {
                break;
            };
            let op = self.store(answer);
            outbox.disk.push(op);
        }
        let now = inbox.now;
        self.alarms.retain(|(at, to)| {
            let met = *at <= now;
            if met {
                outbox.replies.push((to.clone(), now.since_us(*at)));
            }
            !met
        });
        outbox.deadline = self.alarms.iter().map(|(at, _)| *at).min();
        self.stopping_seen |= inbox.stopping;
        outbox.stopped =
            self.stopping_seen && !self.linger && self.stored.is_empty() && self.waiting.is_empty();
    }
}

fn plan(directory: &Path) -> ShardPlan<Bench, String> {
    ShardPlan {
        directory: directory.to_owned(),
        writer: WriterChoice::Auto,
        pool: vec![SizeClass {
            blocks: 1,
            runs: 64,
        }],
        build: Box::new(|boot| Ok(Bench::new(boot))),
        // A test that has given up no longer listens.
        deliver: Box::new(|(to, number)| {
            let _ = to.send(number);
        }),
    }
}

fn node(directory: &Path, shards: usize) -> Node<Ask> {
    let plans = (0..shards)
        .map(|shard| plan(&directory.join(format!("shard-{shard}"))))
        .collect();
    start(&NodeOptions::default(), plans).expect("the node starts")
}

fn ask(node: &Node<Ask>, shard: u16, request: Ask) {
    node.submitter(ShardId(shard))
        .try_submit(request)
        .expect("the queue has room");
}

fn answer(from: &Receiver<u64>) -> u64 {
    from.recv_timeout(Duration::from_secs(20))
        .expect("every request is answered")
}

#[test]
fn requests_of_several_threads_are_each_answered_once() {
    let dir = ring_support::directory();
    let node = node(dir.path(), 1);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let submitter = node.submitter(ShardId(0));
            scope.spawn(move || {
                let (to, from) = channel();
                for number in 0..5_000u64 {
                    let mine = thread * 1_000_000 + number;
                    submitter
                        .try_submit(Ask::Echo(mine, to.clone()))
                        .expect("one request at a time fits");
                    assert_eq!(answer(&from), mine);
                }
                assert!(from.try_recv().is_err(), "nothing is answered twice");
            });
        }
    });
    node.shutdown(Duration::from_secs(5)).expect("it stops");
}

#[test]
fn durable_answers_come_from_chains_and_are_on_disk() {
    let dir = ring_support::directory();
    let node = node(dir.path(), 1);
    let (to, from) = channel();
    for number in 0..500 {
        ask(&node, 0, Ask::Store(number, to.clone()));
    }
    let mut answers: Vec<u64> = (0..500).map(|_| answer(&from)).collect();
    answers.sort_unstable();
    assert_eq!(answers, (0..500).collect::<Vec<u64>>());
    node.shutdown(Duration::from_secs(5)).expect("it stops");
    let path = dir.path().join("shard-0/wal/segment-1.log");
    for block in [0usize, 77, 499] {
        let expected = u8::try_from(block & 0xFF).expect("eight bits");
        assert_eq!(
            ring_support::block_of(&path, block),
            [expected; BLOCK_BYTES]
        );
    }
}

#[test]
fn a_deadline_is_met_when_nothing_arrives() {
    let dir = ring_support::directory();
    let node = node(dir.path(), 1);
    let (to, from) = channel();
    for us in [500u64, 20_000, 120_000] {
        let begun = Instant::now();
        ask(&node, 0, Ask::After(us, to.clone()));
        let late = answer(&from);
        assert!(begun.elapsed() >= Duration::from_micros(us), "never early");
        // Usually within the timer's millisecond; the bound allows for a machine that builds at the same time.
        assert!(late < 100_000, "{late} us late");
    }
    node.shutdown(Duration::from_secs(5)).expect("it stops");
}

#[test]
fn messages_reach_other_shards_and_a_full_ring_loses_none() {
    let dir = ring_support::directory();
    let plans = (0..2)
        .map(|shard| plan(&dir.path().join(format!("shard-{shard}"))))
        .collect();
    let options = NodeOptions {
        mesh_messages_max: 4,
        ..NodeOptions::default()
    };
    let node = start(&options, plans).expect("the node starts");
    let (to, from) = channel();
    for number in 0..1_000 {
        ask(&node, 0, Ask::Forward(ShardId(1), number, to.clone()));
    }
    let answers: Vec<u64> = (0..1_000).map(|_| answer(&from)).collect();
    assert_eq!(answers, (0..1_000).collect::<Vec<u64>>(), "in order");
    node.shutdown(Duration::from_secs(5)).expect("it stops");
}

#[test]
fn stopping_answers_what_was_accepted_and_refuses_the_rest() {
    let dir = ring_support::directory();
    let node = node(dir.path(), 2);
    let submitter = node.submitter(ShardId(1));
    let (to, from) = channel();
    for number in 0..200 {
        ask(&node, 1, Ask::Store(number, to.clone()));
    }
    node.stopper().stop();
    node.shutdown(Duration::from_secs(10)).expect("it stops");
    drop(to);
    assert_eq!(from.iter().count(), 200, "everything accepted is answered");
    let (to, _from) = channel();
    let refused = submitter.try_submit(Ask::Echo(1, to));
    assert!(matches!(refused, Err(error) if !error.is_full()), "closed");
    // The rings are gone, and with them the locks: the directory serves the next start at once.
    let again = self::node(dir.path(), 2);
    again.shutdown(Duration::from_secs(5)).expect("it stops");
}

#[test]
fn a_shard_that_does_not_settle_is_abandoned_when_the_time_is_over() {
    let dir = ring_support::directory();
    let node = node(dir.path(), 2);
    ask(&node, 1, Ask::Linger);
    let begun = Instant::now();
    assert_eq!(
        node.shutdown(Duration::from_millis(300)),
        Err(StopError::Deadline(vec![0, 1])),
        "shard 0 waits for shard 1"
    );
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_shard_that_can_not_be_built_stops_the_start() {
    let dir = ring_support::directory();
    let mut plans = vec![
        plan(&dir.path().join("shard-0")),
        plan(&dir.path().join("shard-1")),
    ];
    // Shard 0 is built long before.
    let (built_here, built) = channel();
    let (began_here, began) = channel::<ShardId>();
    plans[0].build = Box::new(move |boot| {
        let shard = boot.shard;
        *boot.on_begin = Some(Box::new(move || {
            began_here.send(shard).expect("it listens")
        }));
        built_here.send(()).expect("it listens");
        Ok(Bench::new(boot))
    });
    plans[1].build = Box::new(move |_| {
        built.recv().expect("shard 0 is built");
        Err("the log is damaged".to_owned())
    });
    match start(&NodeOptions::default(), plans) {
        Err(StartError::Build { shard, source }) => {
            assert_eq!(shard, ShardId(1));
            assert_eq!(source, "the log is damaged");
        }
        other => panic!("it is refused: {other:?}"),
    }
    assert_eq!(began.try_iter().count(), 0, "and none has begun to write");
    let again = node(dir.path(), 2);
    again.shutdown(Duration::from_secs(5)).expect("it stops");
}

#[test]
fn no_wake_up_is_lost_under_contention() {
    let dir = ring_support::directory();
    let node = node(dir.path(), 2);
    let busy = std::sync::atomic::AtomicBool::new(true);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        // Threads that want every processor, so that the executors are preempted at every point.
        for _ in 0..4 {
            scope.spawn(|| {
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let (to, from) = channel();
        for round in 0..300u64 {
            let begun = Instant::now();
            for shard in 0..2u16 {
                ask(&node, shard, Ask::Store(round, to.clone()));
                ask(
                    &node,
                    shard,
                    Ask::Forward(ShardId(1 - shard), round, to.clone()),
                );
            }
            for _ in 0..4 {
                assert_eq!(answer(&from), round);
            }
            slowest = slowest.max(begun.elapsed());
        }
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(slowest < Duration::from_secs(5), "a round took {slowest:?}");
    node.shutdown(Duration::from_secs(10)).expect("it stops");
}
