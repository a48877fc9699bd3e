//! How to test a machine of one's own: `cargo run -p clustor-sim --example own_machine`.
//!
//! [`Auction`] keeps the highest bid of each lot and closes a lot some time after its last bid, by a timer.
//! [`Careless`] does the same, but with a `HashMap`, and tells who leads the most lots by walking over it: the order of that
//! walk differs from one replica to the next. Both are run through the same simulated clusters; the second one is found.

use std::collections::{BTreeMap, HashMap};

use clustor_engine::machine::{Admit, Applied, Batch, Effects, Expired, Stamp, StateMachine};
use clustor_sim::simulation::{Dice, Failed, Simulation, seeds};

/// A lot is open for so long after its last bid.
const OPEN_MS: u64 = 300;

/// A command: a lot, a bidder, an amount.
fn bid(_: u64, dice: &mut Dice<'_>) -> Vec<u8> {
    let amount = if dice.chance(5) { 0 } else { dice.below(200) };
    vec![dice.below(8) as u8, dice.below(5) as u8, amount as u8]
}

/// Mixes a value into a digest.
fn mix(digest: u64, value: u64) -> u64 {
    (digest ^ value)
        .wrapping_mul(0x0100_0000_01b3)
        .rotate_left(17)
}

/// The best bid of a lot.
#[derive(Clone, Copy, Default)]
struct Best {
    bidder: u8,
    amount: u8,
}

/// Lots by their numbers. Everything is in order, so walking over it is the same everywhere.
#[derive(Default)]
pub struct Auction {
    open: BTreeMap<u8, Best>,
    sold: BTreeMap<u8, u64>,
}

impl StateMachine for Auction {
    fn admit(&self, command: &[u8]) -> Admit {
        // Nobody waits for a disk to learn that a bid of nothing loses.
        match command {
            [_, _, 0] => Admit::No("a bid is at least 1".to_owned()),
            _ => Admit::Yes,
        }
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let [lot, bidder, amount] = *item.command else {
                out.reply(item.index, b"a bid is a lot, a bidder, an amount");
                continue;
            };
            // What `admit` refuses may come all the same: the machine judges for itself.
            if amount <= self.open.get(&lot).map_or(0, |best| best.amount) {
                out.reply(item.index, b"too low");
                continue;
            }
            self.open.insert(lot, Best { bidder, amount });
            let due: Stamp = item.stamp.plus_ms(OPEN_MS);
            match out.set_timer(item.index, &[lot], due) {
                Ok(()) => out.reply(item.index, b"best so far"),
                Err(error) => out.reply(item.index, error.to_string().as_bytes()),
            }
        }
        Applied::Ack
    }

    fn expire(&mut self, expired: Expired<'_>, _: &mut Effects) -> Applied {
        for timer in expired.timers {
            if let Some(best) = self.open.remove(&timer.name[0]) {
                *self.sold.entry(best.bidder).or_default() += u64::from(best.amount);
            }
        }
        Applied::Ack
    }

    fn digest(&self) -> Option<u64> {
        let open = self.open.iter().fold(1, |digest, (lot, best)| {
            mix(
                mix(mix(digest, u64::from(*lot)), u64::from(best.bidder)),
                u64::from(best.amount),
            )
        });
        let sold = self.sold.iter();
        Some(sold.fold(open, |digest, (bidder, sum)| {
            mix(mix(digest, u64::from(*bidder)), *sum)
        }))
    }
}

/// What must hold of an [`Auction`] at any time.
fn no_empty_bids(auction: &Auction) -> Result<(), String> {
    match auction.open.iter().find(|(_, best)| best.amount == 0) {
        Some((lot, _)) => Err(format!("lot {lot} is open at a bid of nothing")),
        None => Ok(()),
    }
}

/// The same with a map whose order differs from one instance to the next.
#[derive(Default)]
pub struct Careless {
    open: HashMap<u8, Best>,
    announced: u64,
}

impl StateMachine for Careless {
    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        for item in batch {
            let &[lot, bidder, amount] = item.command else {
                continue;
            };
            let best = self.open.entry(lot).or_default();
            if amount > best.amount {
                *best = Best { bidder, amount };
            }
            if amount % 16 == 0 {
                // Of two with the same amount, the one that the walk comes to last.
                let leader = self.open.values().max_by_key(|best| best.amount / 50);
                self.announced = mix(self.announced, leader.map_or(0, |best| best.bidder.into()));
            }
        }
        Applied::Ack
    }

    fn digest(&self) -> Option<u64> {
        Some(self.announced)
    }
}

/// Runs [`Auction`] through simulated clusters.
///
/// # Errors
/// The rule that one of them broke.
pub fn test_auction() -> Result<(), Failed> {
    for seed in seeds(0..40) {
        Simulation::new(seed)
            .nodes(3)
            .machine(|_| Auction::default())
            .workload(bid)
            .check(no_empty_bids)
            .run()?;
    }
    Ok(())
}

/// Runs [`Careless`] through simulated clusters.
///
/// # Errors
/// The rule that one of them broke.
pub fn test_careless() -> Result<(), Failed> {
    for seed in seeds(0..40) {
        Simulation::new(seed)
            .machine(|_| Careless::default())
            .workload(bid)
            .run()?;
    }
    Ok(())
}

fn main() {
    match test_auction() {
        Ok(()) => println!("the auction holds"),
        Err(failed) => println!("{failed}"),
    }
    match test_careless() {
        Ok(()) => println!("the careless one was not found"),
        Err(failed) => println!("{failed}"),
    }
}
