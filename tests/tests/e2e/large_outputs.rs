//! Outputs of megabytes: given whole and always as JSON, and not looked through again for each answer.

use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::http2::Http2;
use skysail_tests::program::stat;

cases! {
    a_large_output_is_given_whole_also_from_the_cache_and_in_a_batch;
    what_only_begins_like_json_is_given_as_text_however_large;
    a_large_default_output_is_given_too;
    a_large_output_that_is_cached_is_not_parsed_again_for_each_answer;
    small_queries_are_answered_beside_large_outputs;
}

const REPEATER: &str = env!("CARGO_BIN_EXE_repeater");

/// So many numbers or lines are some 4.5 MB.
const MANY: usize = 750_000;

/// An output, as the model is asked for it.
struct Wish {
    first: &'static str,
    repeat: &'static str,
    times: usize,
    last: &'static str,
}

impl Wish {
    const fn of(first: &'static str, repeat: &'static str, last: &'static str) -> Self {
        Self {
            first,
            repeat,
            times: MANY,
            last,
        }
    }

    fn input(&self) -> Value {
        let Self {
            first,
            repeat,
            times,
            last,
        } = self;
        json!({ "first": first, "repeat": repeat, "times": times, "last": last })
            .to_string()
            .into()
    }

    fn text(&self) -> String {
        format!("{}{}{}", self.first, self.repeat.repeat(self.times), self.last)
    }
}

const NUMBERS: Wish = Wish::of("[", "0.125,", "1]");
const LINES: Wish = Wish::of("", "\"a\"\t\n", "");

async fn repeater() -> TestCluster {
    let cluster = TestCluster::start().await;
    let model = Deployment::of_image("repeater", REPEATER).taking("strings");
    cluster.serve("app", &model).await;
    cluster
}

/// Whether the answer to a query has this output; outputs of megabytes are not to be printed.
#[track_caller]
fn assert_output(answer: &Value, expected: &Value) {
    assert_eq!(answer["default"], false, "{}", answer["default_explanation"]);
    let shown = answer["output"].to_string();
    let shown: String = shown.chars().take(100).collect();
    assert!(answer["output"] == *expected, "the output is another: {shown} …");
}

async fn a_large_output_is_given_whole_also_from_the_cache_and_in_a_batch() {
    let cluster = repeater().await;
    let http2 = Http2::to(cluster.addresses().query).await;
    let small = Wish {
        times: 1,
        ..Wish::of("a ", "line", "")
    };
    let json: Value = serde_json::from_str(&NUMBERS.text()).unwrap();
    for (wish, output) in [(&NUMBERS, json), (&LINES, LINES.text().into())] {
        // The first is computed, the other is cached.
        for _ in 0..2 {
            let answer = cluster.answer("app", wish.input()).await;
            assert_output(&answer, &output);
        }
        let query = json!({ "input": wish.input() });
        let answer = http2.post("/app/predict", query.to_string()).await.expect(200);
        assert_output(&answer, &output);

        let inputs = [wish.input(), small.input(), wish.input(), small.input()];
        let reply = cluster
            .query("app", json!({ "input_batch": inputs }))
            .await
            .expect(200);
        let expected = [&output, &small.text().into()];
        for (place, expected) in expected.iter().cycle().take(4).enumerate() {
            assert_output(&reply["batch_predictions"][place], expected);
        }
    }
}

async fn what_only_begins_like_json_is_given_as_text_however_large() {
    let cluster = repeater().await;
    for wish in [
        Wish::of("[", "0.125,", "1e999]"),
        Wish::of("[", "0.125,", "NaN]"),
        Wish::of("[", "0.125,", ""),
        Wish::of("[", "0.125,", "]"),
        Wish::of("[", "0.125,", "1] 2"),
        Wish::of("[\"", "a\\n", "\\ud800\"]"),
        Wish::of("\"", "\u{1}", "\""),
        Wish::of("", "[", ""),
        Wish {
            times: 200,
            ..Wish::of("", "{\"a\":", "")
        },
    ] {
        // Some 100 kB and more: enough to be read on another thread.
        let wish = Wish {
            times: wish.times.min(100_000),
            ..wish
        };
        // Computed, and from the cache.
        for _ in 0..2 {
            let answer = cluster.answer("app", wish.input()).await;
            assert_output(&answer, &wish.text().into());
        }
    }
    // Names that are there twice are JSON all the same, and given to the letter.
    let twice = Wish::of("{", "\"a\":1,", "\"a\":2}");
    let query = json!({ "input": twice.input() });
    let reply = cluster.query("app", query).await;
    assert!(reply.text.contains(&format!("\"output\":{},", twice.text())));
    assert_output(&reply.expect(200), &json!({ "a": 2 }));
}

async fn a_large_default_output_is_given_too() {
    let cluster = TestCluster::start().await;
    // The body that registers it may have a mebibyte.
    let json = format!("[{}1]", "1,".repeat(400_000));
    let text = "a \"line\"\n".repeat(80_000);
    for (name, output, expected) in [
        ("json", &json, serde_json::from_str(&json).unwrap()),
        ("text", &text, Value::from(text.as_str())),
    ] {
        cluster.register(name, "doubles", output, AMPLE_SLO).await;
        for _ in 0..2 {
            let answer = cluster.answer(name, json!([1])).await;
            assert_eq!(answer["default_reason"], "no_model_linked");
            assert!(answer["output"] == expected, "{name}");
        }
    }
}

/// The frontend's processor time for this many answers with an output that is cached, in ticks of 10 ms.
async fn ticks_for(cluster: &TestCluster, wish: &Wish, answers: usize) -> u64 {
    let query = json!({ "input": wish.input() }).to_string();
    let queries = cluster.queries();
    queries.post_text("/app/predict", query.clone()).await.expect(200);
    let ticks = || stat(cluster.pid()).expect("it runs").ticks;
    let before = ticks();
    for _ in 0..answers {
        let reply = queries.post_text("/app/predict", query.clone()).await;
        assert_eq!(reply.status, 200);
        assert!(reply.text.len() > wish.times);
    }
    ticks() - before
}

async fn a_large_output_that_is_cached_is_not_parsed_again_for_each_answer() {
    const ANSWERS: usize = 40;
    let cluster = repeater().await;
    // Both have the same size; one is full of what a parser has to look at.
    let nested = Wish::of("[", "[],[],", "1]");
    let plain = Wish::of("\"", "abcdef", "\"");
    let plain = ticks_for(&cluster, &plain, ANSWERS).await;
    let nested = ticks_for(&cluster, &nested, ANSWERS).await;
    eprintln!("{ANSWERS} answers of 4.5 MB: {plain} ticks of plain text, {nested} of nested arrays");
    assert!(
        nested < 2 * plain + 40,
        "{nested} ticks, and {plain} for plain text"
    );
}

async fn small_queries_are_answered_beside_large_outputs() {
    let cluster = repeater().await;
    cluster.serve("small", &Deployment::of("noop")).await;
    let large = async {
        for times in 0..10 {
            let wish = Wish {
                times: MANY + times,
                ..NUMBERS
            };
            let answer = cluster.answer("app", wish.input()).await;
            assert_eq!(answer["output"].as_array().map(Vec::len), Some(MANY + times + 1));
        }
    };
    let small = async {
        for number in 0..100 {
            assert_eq!(cluster.predict("small", json!([number])).await, 0);
        }
    };
    tokio::join!(large, small);
}
