//! Batches of several frontends that are answered as one.

use std::time::Duration;

use skysail_proto::container::Credit;

use super::frontend::{Frontend, Stream};
use super::{Container, error, texts};

/// Two frontends that both have a credit for a part of the next batch.
struct Shared {
    /// What is to live as long as the test.
    alive: ([Frontend; 2], Container),
    one: (Stream, Credit),
    other: (Stream, Credit),
}

/// Blocks the model with a first batch, so that both demands are known when the next credits open.
async fn shared() -> Shared {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let mut container = Container::start(&[&first, &second]);
    let (mut busy, mut other) = (first.attached().await, second.attached().await);
    busy.demand(Duration::from_secs(10)).await;
    other.demand(Duration::from_secs(10)).await;
    let credit = tokio::select! {
        credit = busy.credit() => credit,
        credit = other.credit() => {
            std::mem::swap(&mut busy, &mut other);
            credit
        }
    };
    busy.send_texts(credit, &["block"]).await;
    let gate = container.blocked().await;
    for stream in [&mut busy, &mut other] {
        stream.demand_shared(Duration::from_secs(10), 8).await;
        stream.heard().await;
    }
    gate.release();
    let (blocked, early) = busy.result().await;
    assert_eq!(texts(&blocked), "block");
    assert_eq!(blocked.merged_inputs, 0);
    let own = busy.credit_after(early).await;
    let others = other.credit().await;
    Shared {
        alive: ([first, second], container),
        one: (busy, own),
        other: (other, others),
    }
}

#[tokio::test]
async fn parts_of_two_frontends_are_answered_as_one_batch_each_with_its_own_outputs() {
    let Shared {
        one: (mut one, own),
        other: (mut other, others),
        alive: _alive,
    } = shared().await;
    assert!(own.most_inputs + others.most_inputs <= 8, "{own:?} {others:?}");
    let shares = own.share_millionths + others.share_millionths;
    assert!((999_990..=1_000_000).contains(&shares), "{own:?} {others:?}");
    let far = 600_000_000;
    other
        .send_texts_due(others, &[("c", far), ("late", 0), ("refuse", far), ("d", far)])
        .await;
    one.send_texts(own, &["a", "b"]).await;
    let (result, _) = one.result().await;
    assert_eq!(texts(&result), "ab");
    assert_eq!((result.model_inputs, result.merged_inputs), (Some(2), 5));
    let (result, _) = other.result().await;
    assert_eq!(texts(&result), "cd");
    assert_eq!((result.model_inputs, result.merged_inputs), (Some(3), 5));
    let Some(skysail_proto::container::batch_result::Outcome::Outputs(outputs)) = result.outcome else {
        unreachable!("its texts were read");
    };
    let mut failed: Vec<_> = outputs.errors.iter().map(|error| error.index).collect();
    failed.sort_unstable();
    assert_eq!((outputs.lengths, failed), (vec![1, 0, 0, 1], vec![1, 2]));
}

#[tokio::test]
async fn a_model_that_fails_fails_every_part() {
    for trouble in ["fail", "panic", "two"] {
        let Shared {
            one: (mut one, own),
            other: (mut other, others),
            alive: _alive,
        } = shared().await;
        one.send_texts(own, &[trouble]).await;
        other.send_texts(others, &["innocent"]).await;
        let (result, others_result) = (one.result().await.0, other.result().await.0);
        assert_eq!((result.merged_inputs, others_result.merged_inputs), (2, 2));
        assert_eq!(error(result), error(others_result), "{trouble}");
    }
}

#[tokio::test]
async fn a_part_that_cannot_be_read_fails_alone() {
    let Shared {
        one: (mut one, own),
        other: (mut other, others),
        alive: _alive,
    } = shared().await;
    one.send_texts(own, &[]).await;
    other.send_texts(others, &["innocent"]).await;
    assert_eq!(error(one.result().await.0), "the batch has no inputs");
    assert_eq!(texts(&other.result().await.0), "innocent");
}

#[tokio::test]
async fn a_frontend_that_keeps_its_credit_holds_the_other_up_for_a_moment_only() {
    let Shared {
        one: (mut one, own),
        other: (mut other, others),
        alive: _alive,
    } = shared().await;
    one.send_texts(own, &["not held up"]).await;
    assert_eq!(texts(&one.result().await.0), "not held up");
    other.send_texts(others, &["late"]).await;
    assert_eq!(texts(&other.result().await.0), "late");
}

#[tokio::test]
async fn a_frontend_that_goes_with_a_credit_in_hand_holds_nobody_up() {
    let Shared {
        one: (mut one, own),
        other: (other, _),
        alive: _alive,
    } = shared().await;
    drop(other);
    one.send_texts(own, &["not held up"]).await;
    assert_eq!(texts(&one.result().await.0), "not held up");
}
