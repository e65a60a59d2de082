//! Real Redis Cluster with three primaries, and three replicas unless a test disables them.

use std::time::{Duration, Instant};

use bb8_redis::redis::{Cmd, FromRedisValue, RedisResult, Value, cmd};

use super::redis::{Redis, free_port, is_before_7};

const SLOTS: u16 = 16_384;
const PRIMARIES: usize = 3;
const LATE: Duration = Duration::from_secs(60);

/// Nodes of the cluster. Their order says nothing about their roles: a replica may have become a
/// primary.
pub struct Cluster {
    pub nodes: Vec<Redis>,
    ids: Vec<String>,
}

/// Configuration of a cluster.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Time without a message after which a node is considered failed.
    pub node_timeout: Duration,
    pub has_replicas: bool,
    /// Whether there is one more primary, without slots.
    pub has_spare: bool,
    /// Ports that the primaries announce to clients instead of their own.
    pub announced: Option<&'a [u16]>,
    /// TLS configuration of the nodes. Each node then has a TLS port in addition to the plain one.
    pub tls: Option<&'a [String]>,
}

impl Default for Plan<'_> {
    /// No node is considered failed, however slow the machine is.
    fn default() -> Self {
        Self {
            node_timeout: Duration::from_secs(600),
            has_replicas: true,
            has_spare: false,
            announced: None,
            tls: None,
        }
    }
}

/// Slot that is being moved from one node to another.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    pub slot: u16,
    pub from: usize,
    pub to: usize,
}

impl Cluster {
    pub fn start() -> Self {
        Self::planned(Plan::default())
    }

    pub fn planned(plan: Plan<'_>) -> Self {
        let replicas = if plan.has_replicas { PRIMARIES } else { 0 };
        let replicas = PRIMARIES..PRIMARIES + replicas;
        let count = replicas.end + usize::from(plan.has_spare);
        let nodes: Vec<_> = (0..count).map(|n| node(&plan, n)).collect();
        let ids = nodes
            .iter()
            .map(|node| node.run(cmd("CLUSTER").arg("MYID")))
            .collect();
        let cluster = Self { nodes, ids };
        let share = SLOTS.div_ceil(PRIMARIES as u16);
        for n in 0..PRIMARIES as u16 {
            let node = &cluster.nodes[usize::from(n)];
            let last = (share * (n + 1)).min(SLOTS) - 1;
            let mut slots = cmd("CLUSTER");
            node.run::<()>(
                slots
                    .arg("ADDSLOTS")
                    .arg((share * n..=last).collect::<Vec<_>>()),
            );
        }
        for (n, node) in cluster.nodes.iter().enumerate() {
            node.run::<()>(cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(n + 1));
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET")
                .arg("127.0.0.1")
                .arg(node.port())
                .arg(node.bus());
            // Each node runs this itself, because gossip about the others takes seconds.
            for earlier in &cluster.nodes[..n] {
                earlier.run::<()>(&meet);
            }
        }
        cluster.until("all know each other", |cluster| {
            cluster.nodes.iter().all(|node| {
                let known = cluster.view(node);
                // A node has a random ID until the handshake with it is complete.
                let knows = |id: &String| known.iter().any(|line| line.starts_with(id));
                known.len() == count
                    && known.iter().all(|line| line.contains(" connected"))
                    && cluster.ids.iter().all(knows)
            })
        });
        for n in replicas.clone() {
            let primary = &cluster.ids[n - PRIMARIES];
            let node = &cluster.nodes[n];
            node.run::<()>(cmd("CLUSTER").arg("REPLICATE").arg(primary));
        }
        for n in replicas {
            cluster.until_replicated(n - PRIMARIES, n);
        }
        cluster.until_whole();
        cluster
    }

    /// Waits until a replica has all data of its primary.
    pub fn until_replicated(&self, primary: usize, replica: usize) {
        self.until("a replica", |cluster| {
            let info =
                |n: usize| -> String { cluster.nodes[n].run(cmd("INFO").arg("replication")) };
            let (primary, replica) = (info(primary), info(replica));
            let offset = |info: &str, name: &str| {
                let line = info.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::to_owned)
            };
            replica.contains("master_link_status:up")
                && offset(&primary, "master_repl_offset:") == offset(&replica, "slave_repl_offset:")
        });
    }

    /// Waits until a node that was killed has all data of the primary that took over from it.
    pub fn until_replica(&self, node: usize) {
        self.until("a replica to come back", |cluster| {
            let info: RedisResult<String> =
                cluster.nodes[node].try_run(cmd("INFO").arg("replication"));
            info.is_ok_and(|info| info.contains("master_link_status:up"))
        });
        self.until_whole();
    }

    /// Stops replication to a replica from now on. Connected clients stay connected.
    pub fn cut_off(&self, primary: usize, replica: usize) {
        let node = &self.nodes[primary];
        let mut connection = node.connection();
        let mut config = cmd("CONFIG");
        config
            .arg("SET")
            .arg("requirepass")
            .arg("unknown to the replica");
        config.exec(&mut connection).unwrap();
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("replica");
        kill.exec(&mut connection).unwrap();
        self.until("the replica to lose its link", |cluster| {
            let info: String = cluster.nodes[replica].run(cmd("INFO").arg("replication"));
            info.contains("master_link_status:down")
        });
    }

    /// Returns the URL of each node, with its own port.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// Waits until every node that runs sees all slots held, by the same primaries, which run.
    pub fn until_whole(&self) {
        self.until("the cluster to be whole", |cluster| {
            cluster.running().all(|node| {
                let info: RedisResult<String> = node.try_run(cmd("CLUSTER").arg("INFO"));
                info.is_ok_and(|info| {
                    info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
                })
            }) && cluster.agrees()
        });
    }

    /// Whether all running nodes report the same slot owners, and these owners are running.
    fn agrees(&self) -> bool {
        let mut views = self.running().map(|node| self.owners(node));
        let first = views.next().unwrap();
        let mut owners = first.iter();
        owners.all(|(owner, _)| self.nodes[*owner].is_running())
            && views.all(|other| other == first)
    }

    /// Returns the primaries and their slots, if any, as a node reports them.
    fn owners(&self, teller: &Redis) -> Vec<(usize, Vec<String>)> {
        let view = self.view(teller);
        let owners = view.iter().filter_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let slots = fields.get(8..)?.iter();
            let slots: Vec<_> = slots
                .filter(|slots| !slots.starts_with('['))
                .map(|slots| (*slots).to_owned())
                .collect();
            let is_up = fields[2].contains("master") && !fields[2].contains("fail");
            let node = self.ids.iter().position(|id| id == fields[0])?;
            is_up.then_some((node, slots))
        });
        let mut owners: Vec<_> = owners.collect();
        owners.sort();
        owners
    }

    fn view(&self, node: &Redis) -> Vec<String> {
        let nodes: RedisResult<String> = node.try_run(cmd("CLUSTER").arg("NODES"));
        nodes
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn running(&self) -> impl Iterator<Item = &Redis> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LATE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn slot(&self, key: &str) -> u16 {
        let node = self.running().next().unwrap();
        node.run(cmd("CLUSTER").arg("KEYSLOT").arg(key))
    }

    /// Returns the primary that holds a slot, as the nodes report it, or `None` without a report.
    pub fn find_owner(&self, slot: u16) -> Option<usize> {
        self.running().find_map(|node| {
            let owners = self.owners(node);
            let holds =
                |(_, ranges): &&(usize, Vec<String>)| ranges.iter().any(|range| holds(range, slot));
            owners.iter().find(holds).map(|(node, _)| *node)
        })
    }

    pub fn owner(&self, slot: u16) -> usize {
        self.find_owner(slot).expect("a primary of every slot")
    }

    /// Returns the primary that holds a key.
    pub fn owner_of(&self, key: &str) -> usize {
        self.owner(self.slot(key))
    }

    /// Returns the nodes that hold slots, as the first running node reports them.
    pub fn primaries(&self) -> Vec<usize> {
        let owners = self.owners(self.running().next().unwrap());
        let owners = owners.into_iter().filter(|(_, slots)| !slots.is_empty());
        owners.map(|(node, _)| node).collect()
    }

    /// Sends a command to the server that holds the key.
    pub fn run<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> T {
        self.nodes[self.owner_of(key)].run(command)
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.run(key, cmd("GET").arg(key))
    }

    /// Returns the number of keys of a slot on a node.
    pub fn keys_in(&self, node: usize, slot: u16) -> usize {
        self.nodes[node].run(cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(slot))
    }

    /// Begins to move a slot. Its keys are not moved yet.
    pub fn begin_move(&self, slot: u16, to: usize) -> Move {
        let from = self.owner(slot);
        let set = |node: usize, state: &str, other: usize| {
            let mut set = cmd("CLUSTER");
            set.arg("SETSLOT")
                .arg(slot)
                .arg(state)
                .arg(&self.ids[other]);
            self.nodes[node].run::<()>(&set);
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        Move { slot, from, to }
    }

    /// Moves the keys that the slot has now, or only the first ones up to a number.
    pub fn move_keys(&self, moved: Move, most: usize) {
        let from = &self.nodes[moved.from];
        let mut list = cmd("CLUSTER");
        list.arg("GETKEYSINSLOT").arg(moved.slot).arg(most);
        let keys: Vec<Vec<u8>> = from.run(&list);
        if keys.is_empty() {
            return;
        }
        let mut migrate = cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.nodes[moved.to].port());
        migrate.arg("").arg(0).arg(20_000).arg("KEYS").arg(keys);
        from.run::<Value>(&migrate);
    }

    /// Moves the remaining keys, and assigns the slot on all primaries.
    pub fn end_move(&self, moved: Move) {
        self.move_keys(moved, 100_000);
        let others = (0..self.nodes.len()).filter(|n| ![moved.from, moved.to].contains(n));
        for node in [moved.to, moved.from].into_iter().chain(others) {
            let node = &self.nodes[node];
            let mut set = cmd("CLUSTER");
            set.arg("SETSLOT")
                .arg(moved.slot)
                .arg("NODE")
                .arg(&self.ids[moved.to]);
            // A replica rejects this command, and a node that is down cannot receive it.
            let _: RedisResult<()> = node.try_run(&set);
        }
    }
}

fn holds(range: &str, slot: u16) -> bool {
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    (from.parse().unwrap()..=to.parse().unwrap()).contains(&slot)
}

fn node(plan: &Plan<'_>, n: usize) -> Redis {
    Redis::on_free_ports(|| try_node(plan, n))
}

fn try_node(plan: &Plan<'_>, n: usize) -> Option<Redis> {
    // Before Redis 7 the port of the bus follows from the other one.
    let is_old = is_before_7();
    let bus = free_port().to_string();
    let timeout = plan.node_timeout.as_millis().to_string();
    let announced = plan.announced.map(|ports| ports[n].to_string());
    let mut arguments = vec![
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        &timeout,
        "--cluster-config-file",
        "nodes.conf",
        "--cluster-replica-validity-factor",
        "0",
        "--cluster-migration-barrier",
        "100",
        "--repl-diskless-sync-delay",
        "0",
    ];
    if !is_old {
        arguments.extend(["--cluster-port", &bus]);
    }
    if let Some(port) = &announced {
        arguments.extend(["--cluster-announce-port", port]);
        arguments.extend(["--cluster-announce-ip", "127.0.0.1"]);
        if !is_old {
            arguments.extend(["--cluster-announce-bus-port", &bus]);
        }
    }
    let tls_port = free_port().to_string();
    if let Some(options) = plan.tls {
        arguments.extend(["--tls-port", &tls_port, "--tls-cluster", "yes"]);
        arguments.extend(options.iter().map(String::as_str));
    }
    let node = Redis::try_start(&arguments)?;
    if !is_old {
        return Some(node.in_cluster(bus.parse().unwrap()));
    }
    let bus = node.port() + 10_000;
    if announced.is_some() {
        let mut announce = cmd("CONFIG");
        announce
            .arg("SET")
            .arg("cluster-announce-bus-port")
            .arg(bus);
        let plain = node.in_cluster(bus);
        plain.run::<()>(&announce);
        return Some(plain);
    }
    Some(node.in_cluster(bus))
}
