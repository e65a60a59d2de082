//! Reads of a lookup on a cluster, where record and mark may be on two servers.
//!
//! Record, tombstone and mark are read concurrently, each from the server that holds it, so they
//! are of different moments. That is enough: a revocation that has returned is visible in all of
//! them, and one that comes between the reads is concurrent with the request. Single keys are read,
//! because a command for two keys gets no usable reply while their slot moves.

use std::sync::Arc;

use bb8_redis::redis::cmd;
use futures_util::future::try_join4;

use super::store::{RedisStore, read};
use crate::{
    protocol::{RevocationState, Timestamp},
    redis::{
        connection::Unavailable,
        keys::SessionKeys,
        topology::{LookupReply, Operation, RunIds},
    },
};

type Text = (Option<Vec<u8>>, Arc<str>);

impl RedisStore {
    /// Reads what one `MGET` reads if one server holds all three keys.
    pub(crate) async fn read_known_from_cluster(
        &self,
        call: &Operation<'_>,
        [record, tombstone, mark]: [&str; 3],
    ) -> Result<LookupReply, Unavailable> {
        let (reply, ()) = read_keys(call, record, tombstone, Some(mark), async { Ok(()) }).await?;
        Ok(reply)
    }

    /// Reads what the lookup script reads if one server holds everything. Without `mark_name` it
    /// reads no mark.
    pub(crate) async fn read_from_cluster(
        &self,
        call: &Operation<'_>,
        keys: &SessionKeys,
        mark_name: Option<&str>,
    ) -> Result<(LookupReply, Timestamp), Unavailable> {
        let mark = mark_name.map(|name| self.mark_key(name));
        let time = time(call, &keys.record);
        let (mut reply, time) =
            read_keys(call, &keys.record, &keys.tombstone, mark.as_deref(), time).await?;
        reply.mark_name = mark_name.map(|name| name.as_bytes().to_vec());
        Ok((reply, time))
    }
}

/// Reads the keys, concurrently with another read.
async fn read_keys<T>(
    call: &Operation<'_>,
    record: &str,
    tombstone: &str,
    mark: Option<&str>,
    concurrent_read: impl Future<Output = Result<T, Unavailable>>,
) -> Result<(LookupReply, T), Unavailable> {
    let topology_version = call.topology_version().await?;
    let mark = async {
        match mark {
            Some(mark) => text(call, mark).await.map(Some),
            None => Ok(None),
        }
    };
    let all = try_join4(
        text(call, record),
        text(call, tombstone),
        mark,
        concurrent_read,
    );
    let (record, tombstone, mark, concurrent) = all.await?;
    let token = token(&record, &tombstone);
    let (mark, marks) = mark.unzip();
    let reply = LookupReply {
        is_banned: None,
        value: record.0,
        mark_name: None,
        revocations: RevocationState::parse(tombstone.0.as_deref(), mark.flatten().as_deref()),
        run_ids: RunIds::of_cluster(token, marks, topology_version),
    };
    Ok((reply, concurrent))
}

/// Returns the run ID of the server that holds the token's keys. While their slot moves there may
/// be two servers, and the result then equals the run ID of no record.
fn token(record: &Text, tombstone: &Text) -> Arc<str> {
    if record.1 == tombstone.1 {
        return Arc::clone(&record.1);
    }
    format!("{}+{}", record.1, tombstone.1).into()
}

async fn text(call: &Operation<'_>, key: &str) -> Result<Text, Unavailable> {
    // `GET` would fail if the key holds anything else than a string.
    let answer = call.send(key, cmd("MGET").arg(key)).await?;
    let [text] = read(answer.value).ok_or(Unavailable)?;
    Ok((text, answer.run_id))
}

async fn time(call: &Operation<'_>, key: &str) -> Result<Timestamp, Unavailable> {
    let answer = call.send(key, &cmd("TIME")).await?;
    read(answer.value)
        .map(Timestamp::from_redis_time)
        .ok_or(Unavailable)
}
