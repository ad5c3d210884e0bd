//! What a child process printed: its last lines, for whoever asks now or waits for more.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

/// Lines kept of each container; what `skysail model logs` can show.
const MAX_LINES: usize = 1000;

/// Bytes kept of each container, whichever is reached first: lines can be long.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The last lines of a container. Readers that follow wait on the watch channel that holds them.
#[derive(Debug)]
pub(super) struct Log {
    kept: watch::Sender<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<str>>,
    /// Lines that were printed before the first of `lines`: the number of that one.
    forgotten: u64,
    /// The sum of the lengths of `lines`.
    bytes: usize,
    /// No line will come any more.
    ended: bool,
}

/// What a reader finds at its place.
enum Next {
    Line(Arc<str>, u64),
    NotYet,
    Ended,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            kept: watch::Sender::new(Kept::default()),
        }
    }

    /// Adds lines and wakes whoever follows, once for all; the oldest are forgotten.
    pub(super) fn push(&self, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        self.kept.send_modify(|kept| {
            for line in lines {
                kept.push(line.into());
            }
        });
    }

    /// Lets readers that follow come to their end.
    pub(super) fn end(&self) {
        self.kept.send_modify(|kept| kept.ended = true);
    }

    /// The last `tail` lines, and if `follow`, those that come until the end.
    pub(super) fn read(&self, tail: usize, follow: bool) -> BoxStream<'static, String> {
        let reader = self.kept.subscribe();
        if !follow {
            let lines = reader.borrow().last(tail);
            return stream::iter(lines).map(|line| line.to_string()).boxed();
        }
        let first = reader.borrow().place_of_last(tail);
        stream::unfold((reader, first), |(mut reader, place)| async move {
            let (line, next) = next_line(&mut reader, place).await?;
            Some((line.to_string(), (reader, next)))
        })
        .boxed()
    }
}

/// Waits for the line at `place`, or the first kept after it for a reader that fell behind.
async fn next_line(reader: &mut watch::Receiver<Kept>, place: u64) -> Option<(Arc<str>, u64)> {
    loop {
        let next = reader.borrow_and_update().at(place);
        match next {
            Next::Line(line, place) => return Some((line, place + 1)),
            Next::Ended => return None,
            // The channel closes when the container is removed: nothing more comes then either.
            Next::NotYet => reader.changed().await.ok()?,
        }
    }
}

impl Kept {
    fn push(&mut self, line: Arc<str>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
            self.forgotten += 1;
        }
    }

    fn last(&self, tail: usize) -> Vec<Arc<str>> {
        let skip = self.lines.len().saturating_sub(tail);
        self.lines.iter().skip(skip).cloned().collect()
    }

    fn place_of_last(&self, tail: usize) -> u64 {
        self.forgotten + self.lines.len().saturating_sub(tail) as u64
    }

    fn at(&self, place: u64) -> Next {
        let place = place.max(self.forgotten);
        let index = usize::try_from(place - self.forgotten).unwrap_or(usize::MAX);
        match self.lines.get(index) {
            Some(line) => Next::Line(line.clone(), place),
            None if self.ended => Next::Ended,
            None => Next::NotYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn log_of(count: usize) -> Log {
        let log = Log::new();
        for number in 0..count {
            log.push(vec![number.to_string()]);
        }
        log
    }

    #[tokio::test]
    async fn the_tail_is_the_last_lines_in_order() {
        let log = log_of(5);
        let read = |tail| log.read(tail, false).collect::<Vec<_>>();
        assert_eq!(read(2).await, ["3", "4"]);
        assert_eq!(read(9).await, ["0", "1", "2", "3", "4"]);
        assert!(read(0).await.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_lines_are_forgotten() {
        let many = log_of(MAX_LINES + 3)
            .read(usize::MAX, false)
            .collect::<Vec<_>>()
            .await;
        assert_eq!((many.len(), many[0].as_str()), (MAX_LINES, "3"));

        let log = Log::new();
        for _ in 0..3 {
            log.push(vec!["x".repeat(MAX_BYTES / 2)]);
        }
        assert_eq!(log.read(usize::MAX, false).count().await, 2);
    }

    #[tokio::test]
    async fn a_follower_gets_what_comes_and_ends_with_the_log() {
        let log = log_of(2);
        let mut follower = log.read(1, true);
        assert_eq!(follower.next().await.as_deref(), Some("1"));
        assert_eq!(follower.next().now_or_never(), None);
        log.push(vec!["new".into()]);
        assert_eq!(follower.next().await.as_deref(), Some("new"));
        log.push(vec!["last".into()]);
        log.end();
        assert_eq!(follower.next().await.as_deref(), Some("last"));
        assert_eq!(follower.next().await, None);
    }

    #[tokio::test]
    async fn a_follower_that_fell_behind_goes_on_with_what_is_kept() {
        let log = log_of(1);
        let mut follower = log.read(0, true);
        for number in 0..MAX_LINES + 2 {
            log.push(vec![format!("later {number}")]);
        }
        log.end();
        let lines = follower.by_ref().collect::<Vec<_>>().await;
        assert_eq!((lines.len(), lines[0].as_str()), (MAX_LINES, "later 2"));
    }

    #[tokio::test]
    async fn a_follower_ends_when_the_container_is_removed() {
        let log = log_of(1);
        let mut follower = log.read(1, true);
        drop(log);
        assert_eq!(follower.next().await.as_deref(), Some("0"));
        assert_eq!(follower.next().await, None);
    }
}
