//! State of a cluster as one of its nodes reports it.
//!
//! `CLUSTER SLOTS` gives each primary's address as clients must use it, but omits primaries without
//! slots. `CLUSTER NODES` includes them. Every version of Redis supports both.

use std::collections::BTreeMap;

use bb8_redis::redis::{Value, from_redis_value};

use super::hash_slot::SLOTS;
use crate::redis::connection::field;

/// Maximum number of primaries in a valid report. Redis recommends at most 1,000 nodes.
const MAX_PRIMARIES: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClusterInfo {
    /// Increases with every failover.
    pub(crate) epoch: u64,
    /// Whether the node sees a majority of the primaries.
    pub(crate) is_ok: bool,
    pub(crate) primaries: Vec<PrimaryInfo>,
}

/// A primary as a node reports it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PrimaryInfo {
    pub(crate) id: String,
    pub(crate) address: Address,
    pub(crate) slots: Vec<(u16, u16)>,
}

impl Address {
    /// Parses `host:port`. An empty host stands for the host of `source`, the node that reported
    /// it.
    pub(crate) fn parse(text: &str, source: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Self::new(host, port.parse().ok()?, source)
    }

    fn new(host: &str, port: u16, source: &Self) -> Option<Self> {
        // A node that does not know its own host name reports a question mark.
        if host == "?" || port == 0 {
            return None;
        }
        let host = if host.is_empty() { &source.host } else { host };
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl ClusterInfo {
    /// Parses the replies to `CLUSTER SLOTS`, `CLUSTER NODES` and `CLUSTER INFO`. Returns `None` if
    /// they are not such replies.
    pub(crate) fn parse(slots: Value, nodes: &str, info: &str, source: &Address) -> Option<Self> {
        let mut primaries = BTreeMap::new();
        for range in from_redis_value::<Vec<Vec<Value>>>(slots).ok()? {
            let mut range = range.into_iter();
            let (from, to, primary) = (range.next()?, range.next()?, range.next()?);
            let (from, to) = (number(from)?, number(to)?);
            if from > to || to >= SLOTS {
                return None;
            }
            let mut primary = from_redis_value::<Vec<Value>>(primary).ok()?.into_iter();
            let host = from_redis_value::<Option<String>>(primary.next()?).ok()?;
            let port = number(primary.next()?)?;
            let id = from_redis_value::<String>(primary.next()?).ok()?;
            // Skip a primary without an address: the slots that it holds are out of reach.
            let host = host.unwrap_or_default();
            let Some(address) = Address::new(&host, port, source) else {
                continue;
            };
            let known = primaries.entry(id.clone()).or_insert_with(|| PrimaryInfo {
                id,
                address,
                slots: Vec::new(),
            });
            known.slots.push((from, to));
        }
        for node in nodes.lines() {
            if let Some(primary) = without_slots(node, source) {
                primaries.entry(primary.id.clone()).or_insert(primary);
            }
        }
        let mut primaries: Vec<_> = primaries.into_values().collect();
        for primary in &mut primaries {
            primary.slots.sort_unstable();
        }
        (!primaries.is_empty() && primaries.len() <= MAX_PRIMARIES).then(|| Self {
            epoch: field(info, "cluster_current_epoch").parse().unwrap_or(0),
            is_ok: field(info, "cluster_state") == "ok",
            primaries,
        })
    }
}

/// Reads a number by way of `i64`, because redis-rs would convert any number to a `u16`.
fn number(value: Value) -> Option<u16> {
    from_redis_value::<i64>(value).ok()?.try_into().ok()
}

/// Parses a line of `CLUSTER NODES`, `id ip:port@bus[,hostname] flags …`. Returns `None` unless it
/// is about a usable primary.
fn without_slots(line: &str, source: &Address) -> Option<PrimaryInfo> {
    let mut fields = line.split(' ');
    let (id, address, flags) = (fields.next()?, fields.next()?, fields.next()?);
    let has = |wanted| flags.split(',').any(|flag| flag == wanted);
    if !has("master") || ["fail", "handshake", "noaddr"].into_iter().any(has) {
        return None;
    }
    let (address, _) = address.split_once('@').unwrap_or((address, ""));
    Some(PrimaryInfo {
        id: id.to_owned(),
        address: Address::parse(address, source)?,
        slots: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address {
            host: host.to_owned(),
            port,
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(from: i64, to: i64, host: Value, port: i64, id: &str) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), text(id), Value::Array(vec![])]);
        let replica = Value::Array(vec![text("r"), Value::Int(1), text("r1")]);
        Value::Array(vec![Value::Int(from), Value::Int(to), node, replica])
    }

    const INFO: &str = "cluster_state:ok\r\ncluster_current_epoch:7\r\n";

    #[test]
    fn primaries_with_and_without_slots_are_read() {
        let slots = Value::Array(vec![
            range(5_461, 16_383, text("::1"), 7_001, "b"),
            range(0, 100, text(""), 7_000, "a"),
            range(200, 5_460, Value::Nil, 7_000, "a"),
        ]);
        let nodes = "\
a 10.0.0.1:7000@17000,here.example myself,master - 0 0 1 connected 0-5460
b 10.0.0.2:7001@17001 master - 0 0 2 connected 5461-16383
c 10.0.0.3:7002@17002 master - 0 0 3 connected
d 10.0.0.4:7003@17003 slave b 0 0 2 connected
e 10.0.0.5:7004@17004 master,fail - 0 0 3 disconnected
f :0@0 master,noaddr - 0 0 3 disconnected
";
        let source = address("seed", 7_000);
        let view = ClusterInfo::parse(slots, nodes, INFO, &source).unwrap();
        let primary = |id: &str, address: Address, slots: &[(u16, u16)]| PrimaryInfo {
            id: id.to_owned(),
            address,
            slots: slots.to_vec(),
        };
        assert_eq!((view.epoch, view.is_ok), (7, true));
        assert_eq!(
            view.primaries,
            [
                primary("a", address("seed", 7_000), &[(0, 100), (200, 5_460)]),
                primary("b", address("::1", 7_001), &[(5_461, 16_383)]),
                primary("c", address("10.0.0.3", 7_002), &[]),
            ]
        );
    }

    #[test]
    fn invalid_cluster_reply_is_rejected() {
        let source = address("seed", 7_000);
        let none = |slots: Value| ClusterInfo::parse(slots, "", INFO, &source).is_none();
        assert!(none(Value::Nil) && none(Value::Okay) && none(Value::Array(vec![])));
        for (from, to) in [(5, 4), (0, 16_384), (-1, 5), (70_000, 80_000)] {
            assert!(none(Value::Array(vec![range(from, to, text("a"), 1, "a")])));
        }
        let unknown_host = Value::Array(vec![range(0, 1, text("?"), 1, "a")]);
        assert!(none(unknown_host), "the host is unknown");
    }

    #[test]
    fn address_without_host_uses_the_host_of_the_source() {
        let source = address("h", 1);
        assert_eq!(Address::parse("a:2", &source), Some(address("a", 2)));
        assert_eq!(
            Address::parse("fe80::1:2", &source),
            Some(address("fe80::1", 2))
        );
        assert_eq!(Address::parse(":2", &source), Some(address("h", 2)));
        for none in ["", "a", "a:", "a:x", "?:2", "a:0", "a:70000"] {
            assert_eq!(Address::parse(none, &source), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(nodes in "[ -~\n]{0,200}", host in "[ -~]{0,20}", port: u16) {
            let source = address("h", 1);
            let slots = Value::Array(vec![range(0, 1, text(&host), port.into(), "a")]);
            let _ = ClusterInfo::parse(slots, &nodes, &nodes, &source);
            let _ = Address::parse(&host, &source);
        }
    }
}
