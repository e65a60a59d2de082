//! Run IDs of the servers that answered a lookup.

use std::sync::Arc;

/// Run IDs of the servers that a lookup read. A single server holds everything. On a cluster, one
/// primary holds what belongs to the token, and the same or another one the mark of its user.
#[derive(Clone, Debug)]
pub(crate) struct RunIds {
    token: Arc<str>,
    mark: Option<Arc<str>>,
    /// The topology version when the lookup began.
    topology_version: u64,
}

impl RunIds {
    pub(crate) fn of_one(server: Arc<str>) -> Self {
        Self {
            token: server,
            mark: None,
            topology_version: 0,
        }
    }

    /// Creates the run IDs of a lookup on a cluster. `mark` is `None` if no mark was read.
    pub(crate) fn of_cluster(
        token: Arc<str>,
        mark: Option<Arc<str>>,
        topology_version: u64,
    ) -> Self {
        Self {
            token,
            mark,
            topology_version,
        }
    }

    /// Returns the run ID as it is stored in a record.
    pub(crate) fn text(&self) -> Arc<str> {
        match &self.mark {
            None => Arc::clone(&self.token),
            Some(mark) => [&*self.token, mark].concat().into(),
        }
    }

    /// Returns the run ID of the server that holds what belongs to the token.
    pub(crate) fn of_token_server(&self) -> &str {
        &self.token
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &str> {
        [Some(&*self.token), self.mark.as_deref()]
            .into_iter()
            .flatten()
    }

    /// Returns whether the servers of `now` still know what the servers of this lookup knew,
    /// because their run IDs are equal. If only `now` read a mark, the topology version must be
    /// unchanged as well.
    pub(crate) fn goes_on(&self, now: &Self) -> bool {
        let is_marks = match &self.mark {
            Some(_) => self.mark == now.mark,
            None => now.mark.is_none() || self.topology_version == now.topology_version,
        };
        self.token == now.token && is_marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_continues_while_the_servers_are_the_same() {
        let run = |token: &str, mark: Option<&str>, topology_version| {
            RunIds::of_cluster(token.into(), mark.map(Into::into), topology_version)
        };
        let read = run("a", Some("b"), 1);
        assert_eq!(&*read.text(), "ab");
        assert_eq!(read.servers().collect::<Vec<_>>(), ["a", "b"]);
        assert!(read.goes_on(&run("a", Some("b"), 2)));
        assert!(!read.goes_on(&run("c", Some("b"), 1)));
        assert!(!read.goes_on(&run("a", Some("c"), 1)));
        let unread = run("a", None, 1);
        assert!(unread.goes_on(&run("a", Some("b"), 1)));
        assert!(
            !unread.goes_on(&run("a", Some("b"), 2)),
            "it may be another server"
        );
        assert!(!unread.goes_on(&run("c", Some("b"), 1)));
        assert!(unread.goes_on(&run("a", None, 2)));
    }
}
