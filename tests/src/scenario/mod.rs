//! Scenarios: conversations between replicas as scripts, played through the same turn as everything else.
//!
//! A script is read line by line; `#` begins a comment. The first lines set the cluster up, the others act on it
//! or say how it must stand. Every rule of [`crate::cluster::check`] holds on every step besides.
//!
//! | line | what it does |
//! | --- | --- |
//! | `nodes 3`, `profile latency`, `seed 7` | sets up (7 nodes at most; `throughput` is the other profile) |
//! | `partitions 2` | sets up: there are others beside the one that all lines are about |
//! | `listed 4 1 2 3 4` | sets up: node 4's placement lists others than the first voters; nodes then speak only with those that their placements or configurations tell of |
//! | `voters 1 2 3` | sets up: who votes first; the other nodes hold an empty replica |
//! | `machines 2 save 1` | sets up: node 2's machines are on disk, and save themselves after so many batches |
//! | `set idempotency_keys_max 2`, `set leases on` | sets up: changes a knob of the profile |
//! | `set idempotency_keys_max 2 at 3` | sets up: on node 3 alone, once the others' knobs are set |
//! | `reload 1 election_ms_min 500 heartbeat_ms 100` | node 1 reads its profile anew, in which these knobs have been turned |
//! | `start`, `start 2 3` | starts all nodes, or those |
//! | `run 200ms` | lets time pass |
//! | `elect 1`, `elect 1 at once` | lets node 1 become leader, and (if not at once) be known as such |
//! | `append 1 "a" as x`, `append 1 "a" key 7 known 0 as x` | asks node 1; the answer will be known as x |
//! | `append 1 "a" times 4000 as x` | the same with a long command: its text so many times |
//! | `fill 1 64` | asks node 1 for 64 entries whose answers nobody awaits |
//! | `append 1 "a" in 1 as x` | the same, only in term 1 |
//! | `read 1 as r`, `read 1 lease as r`, `read 2 local as r` | the same for a read; it is linearizable where nothing else is said |
//! | `change 1 learn 4 as m` | asks node 1 to add a learner; `observe`, `forget`, `add 4 5 remove 2`, `remove 2`, `back` |
//! | `transfer 1->2 as t` | asks node 1 to hand leadership to node 2 |
//! | `busy 1` | an append to the second partition, on node 1 |
//! | `cut 1 from 2 3`, `cut 1->2`, `heal` | cuts nodes off from each other, and not any more |
//! | `drop 1->2 Append`, `hold 1->2 Vote`, `allow`, `release` | rules for messages; ends them; delivers what was held |
//! | `copy 1->2 Append`, `repeat` | a rule that lets messages through and keeps copies; their senders send what was copied once more, whether or not anybody has restarted since |
//! | `freeze 2`, `thaw 2` | a disk does nothing, and goes on |
//! | `fail 2 flush ledger`, `fail 2 write segment` | the next such step on a disk ends in an error |
//! | `rot 2 segment 6` | a block of the newest such file of a node turns over bits |
//! | `stall 2 300ms` | a process gets no processor |
//! | `slow 2 3ms` | a node's machines take so long over each batch |
//! | `disk 2 takes 300ms` | a node's disk takes so long over each write and each flush |
//! | `clock 2 jumps 200ms`, `clock 2 runs 150`, `clock 2 drifts 102` | a node's clock jumps ahead, or runs at so many percent of its wall clock; both of its clocks run at so many percent of the others' |
//! | `crash 2 kill`, `crash 2 power lost` | ends a process, or a node's power; what was not flushed is lost, landed, torn, or drawn |
//! | `image 2`, `goback 2` | keeps an image of a node's disk, and puts it back while the node is down |
//! | `shorten 2 5` | a node that is down gives up the entries of its log up to index 5, as far as they are durable |
//! | `empty 2` | puts an empty disk into a node that is down |
//! | `stop 2` | stops a node in order |
//! | `stand 3 in 5` | others get requests for their votes in term 5 that node 3 never sent: as from a server that does not ask first whether it would win |
//! | `count` | counts messages from 0 |
//! | `settle` | ends all of the above, starts what is down, and waits until all agree |
//! | `expect 1 leader term>=2 applied=5` | role and numbers: term, last, durable, committed, applied, vote, missing, lease (1 held), keys_max, p99 (what its machine takes over a batch, in us), breaches (of its machine's budget), backlog (how many entries may wait for the machine, 0 for any number), |
//! | | trouble (1 if its status tells of any), shard_trouble (the same for its shard's), voters (those after a change under way), halves (2 while it is joint), change (0 none, 1 joint, 2 leaving, 3 finishing), member (0 no, 1 voter, 2 learner, 3 observer), towards (its leadership: 0 follower, 1 elected, 2 ready, 3 draining, 4 lost) |
//! | `expect all applied>=3`, `expect leaders 1` | of all running nodes |
//! | `expect led 300` | how many partitions somebody leads |
//! | `expect m begun` | what was asked about members has begun |
//! | `expect x applied`, `expect x duplicate`, `unknown`, `refused NotLeader`, `waiting` | what became of an append or a read |
//! | `expect r sees "a" "b"`, `expect 2 has "a"` | what a read saw, what a machine holds: exactly this, in order |
//! | `expect 2 expired "x" "y"` | timers that expired in a machine, in order (a command `timer x 100` sets one, `cancel x` cancels it) |
//! | `expect sent 2->1 Vote = 0` | messages that left since `count` |

mod expect;
mod line;
mod play;

pub use line::ParseError;
pub use play::{ScenarioError, play};
