//! Reads from a cluster, where what a lookup compares is on several servers.
//!
//! Record, tombstone and mark are asked for at once, each where it is, so each is of a moment of
//! its own. That is enough: a revocation that has returned stands in all of them, and one that
//! comes between is of a request's own time. Single keys are read, since a command for two of them
//! gets no answer while their slot moves.

use std::sync::Arc;

use bb8_redis::redis::cmd;
use futures_util::future::{try_join, try_join3};

use super::{
    Redis, batch::Standing, lookup::Looked, memory::Known, names::Keys, pool::Unanswered, read,
    run::Run, servers::Call,
};
use crate::cache::{
    accept::{Beside, Mark, Tomb},
    stamp::Stamp,
};

type Text = (Option<Vec<u8>>, Arc<str>);

impl Redis {
    /// What one `MGET` says where one server holds all three.
    pub(super) async fn read_apart(
        &self,
        call: &Call<'_>,
        known: &Known,
    ) -> Result<Standing, Unanswered> {
        let turn = call.turn().await?;
        let [record, tomb, mark] = known.asked().map(|key| text(call, key));
        let (record, tomb, mark) = try_join3(record, tomb, mark).await?;
        Ok(Standing {
            run: Run::of_cluster(token(&record, &tomb), Some(mark.1), turn),
            record: record.0,
            tomb: tomb.0,
            mark: mark.0,
        })
    }

    /// What the lookup script says where one server holds all; no mark where none is named.
    pub(super) async fn look_apart(
        &self,
        call: &Call<'_>,
        keys: &Keys,
        mark_name: Option<&str>,
    ) -> Result<Looked, Unanswered> {
        let turn = call.turn().await?;
        let mark = async {
            let Some(name) = mark_name else {
                return Ok(None);
            };
            text(call, &self.mark_key(name)).await.map(Some)
        };
        let tokens = try_join3(
            text(call, &keys.record),
            text(call, &keys.tomb),
            time(call, &keys.record),
        );
        let ((record, tomb, time), mark) = try_join(tokens, mark).await?;
        let token = token(&record, &tomb);
        let (mark, marks) = mark.unzip();
        Ok(Looked {
            value: record.0,
            mark_name: mark_name.map(|name| name.as_bytes().to_vec()),
            beside: Beside {
                tomb: tomb.0.map(|tomb| Tomb::parse(&tomb)),
                mark: mark.flatten().map(|mark| Mark::parse(&mark)),
            },
            run: Run::of_cluster(token, marks, turn),
            time,
        })
    }
}

/// The run of the server that holds what is the token's. While its slot moves there may be two,
/// and what they say together is no record's.
fn token(record: &Text, tomb: &Text) -> Arc<str> {
    if record.1 == tomb.1 {
        return Arc::clone(&record.1);
    }
    format!("{}+{}", record.1, tomb.1).into()
}

async fn text(call: &Call<'_>, key: &str) -> Result<Text, Unanswered> {
    // Not `GET`, which fails where something else than a text stands.
    let answer = call.send(key, cmd("MGET").arg(key)).await?;
    let [text] = read(answer.value).ok_or(Unanswered)?;
    Ok((text, answer.run))
}

async fn time(call: &Call<'_>, key: &str) -> Result<Stamp, Unanswered> {
    let answer = call.send(key, &cmd("TIME")).await?;
    let (seconds, micros): (i64, i64) = read(answer.value).ok_or(Unanswered)?;
    Ok(Stamp(
        seconds.saturating_mul(1_000_000).saturating_add(micros),
    ))
}
