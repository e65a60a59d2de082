//! Slot map: which primary holds which slots, as of one refresh.

use super::{
    cluster_info::Address,
    hash_slot::{SLOTS, slot},
};
use crate::redis::connection::ServerPool;

/// Maximum number of keys that are tried until one is found that a primary holds. A prefix with a
/// hash tag puts all of them into one slot.
const TRIES: u64 = 1 << 16;

#[derive(Default)]
pub(crate) struct SlotMap {
    pub(crate) primaries: Vec<Primary>,
    /// Sorted. The last number is an index into `primaries`.
    ranges: Vec<(u16, u16, usize)>,
}

pub(crate) struct Primary {
    /// The node ID in the cluster.
    pub(crate) id: String,
    pub(crate) address: Address,
    pub(crate) pool: ServerPool,
    pub(crate) slots: Vec<(u16, u16)>,
}

impl SlotMap {
    pub(crate) fn new(primaries: Vec<Primary>) -> Self {
        let mut ranges: Vec<_> = primaries
            .iter()
            .enumerate()
            .flat_map(|(n, primary)| primary.slots.iter().map(move |(from, to)| (*from, *to, n)))
            .collect();
        ranges.sort_unstable();
        Self { primaries, ranges }
    }

    pub(crate) fn owner(&self, slot: u16) -> Option<&Primary> {
        let at = self.ranges.partition_point(|(_, to, _)| *to < slot);
        let (from, _, primary) = self.ranges.get(at)?;
        (*from <= slot).then(|| &self.primaries[*primary])
    }

    /// Returns the primaries that hold slots.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Primary> {
        self.primaries
            .iter()
            .filter(|primary| !primary.slots.is_empty())
    }

    /// Returns whether every slot has a primary.
    pub(crate) fn is_whole(&self) -> bool {
        let slots = self.ranges.iter();
        let slots = slots.map(|(from, to, _)| u32::from(to - from) + 1);
        slots.sum::<u32>() == u32::from(SLOTS)
    }

    pub(crate) fn pool(&self, address: &Address) -> Option<ServerPool> {
        let mut primaries = self.primaries.iter();
        let primary = primaries.find(|primary| primary.address == *address)?;
        Some(primary.pool.clone())
    }

    /// Returns whether the same primaries, at the same addresses, hold the same slots.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let state = |map: &Self| {
            let state = map.primaries.iter();
            let mut state: Vec<_> = state
                .map(|one| (one.id.clone(), one.address.clone(), one.slots.clone()))
                .collect();
            state.sort_unstable();
            state
        };
        state(self) == state(other)
    }

    /// Returns the first of the numbered keys that this primary holds.
    pub(crate) fn key_on(&self, address: &Address, key: impl Fn(u64) -> String) -> Option<String> {
        let is_there = |key: &String| {
            let owner = self.owner(slot(key));
            owner.is_some_and(|owner| owner.address == *address)
        };
        let holds_any = self.owners().any(|owner| owner.address == *address);
        let mut keys = (0..TRIES).map(key);
        holds_any.then(|| keys.find(is_there)).flatten()
    }
}
