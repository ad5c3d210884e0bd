//! Who may name whom, read off the sources: the rules of ARCHITECTURE.md that no crate boundary keeps.
//!
//! Comments and texts are left out, groups of `use` are spelt out, and `super` is resolved, so that a rule cannot be
//! broken by writing a path in another way. A macro could still hide one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter::Peekable;
use std::path::Path;

/// A path as `crate::query::http` is one: its segments.
type Segments = Vec<String>;

/// A source file of a crate.
struct Source {
    /// As messages call it.
    name: String,
    /// The module that it is, from the crate's root.
    module: Segments,
    /// What it names, and whether only its tests do. What is named from the crate's root begins with `crate`.
    named: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    path: Segments,
    by_tests: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Sign(char),
}

/// The words and signs of a source, without comments, texts and characters.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = rest.strip_prefix("r#").filter(|raw| raw.starts_with(['"', '#'])) {
            let hashes = 1 + raw.len() - raw.trim_start_matches('#').len();
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 2;
            begin
                + rest[begin..]
                    .find(&end)
                    .map_or(rest.len() - begin, |at| at + end.len())
        } else if first == '"' {
            quoted(rest)
        } else if let Some(character) = character(rest) {
            character
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let end = end.unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        } else if rest.starts_with("::") {
            tokens.push(Token::Colons);
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[skipped..];
    }
    tokens
}

/// The length of the text literal that `rest` begins with.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of the character literal that `rest` begins with; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    if let Some(escaped) = inside.strip_prefix('\\') {
        let after = escaped.chars().next()?.len_utf8();
        return Some(3 + after + escaped[after..].find('\'')?);
    }
    let one = inside.chars().next()?.len_utf8();
    inside[one..].starts_with('\'').then_some(one + 2)
}

/// Every path in a file of this module, from the crate's root where it says so.
fn paths(module: &[String], tokens: Vec<Token>) -> Vec<Named> {
    let mut named = Vec::new();
    // The modules that are written out in the file, and how many braces were open before each.
    let (mut inline, mut braces) = (Vec::<(String, usize)>::new(), 0);
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) if word == "mod" => {
                let Some(Token::Word(name)) = tokens.next() else {
                    continue;
                };
                if tokens.peek() == Some(&Token::Sign('{')) {
                    inline.push((name, braces));
                }
            }
            Token::Word(word) => {
                let own: Segments = module
                    .iter()
                    .chain(inline.iter().map(|(name, _)| name))
                    .cloned()
                    .collect();
                let by_tests = inline.iter().any(|(name, _)| name == "tests");
                let mut found = Vec::new();
                path(vec![word], &mut tokens, &mut found);
                let resolved = found.into_iter().map(|path| resolve(&own, path));
                named.extend(resolved.map(|path| Named { path, by_tests }));
            }
            Token::Sign('{') => braces += 1,
            Token::Sign('}') => {
                braces -= 1;
                inline.retain(|(_, before)| *before < braces);
            }
            _ => {}
        }
    }
    named
}

/// Spells out the paths that begin with these segments.
fn path(begin: Segments, tokens: &mut Peekable<impl Iterator<Item = Token>>, found: &mut Vec<Segments>) {
    if tokens.peek() != Some(&Token::Colons) {
        return found.push(begin);
    }
    tokens.next();
    match tokens.peek().cloned() {
        Some(Token::Word(word)) => {
            tokens.next();
            let longer = begin.into_iter().chain([word]).collect();
            path(longer, tokens, found);
        }
        Some(Token::Sign('{')) => {
            tokens.next();
            while let Some(token) = tokens.next() {
                match token {
                    Token::Word(word) if word == "as" => drop(tokens.next()),
                    Token::Word(word) => {
                        let longer = begin.iter().cloned().chain([word]).collect();
                        path(longer, tokens, found);
                    }
                    Token::Sign('}') => return,
                    _ => {}
                }
            }
        }
        _ => found.push(begin),
    }
}

/// A path from the crate's root, if it is said from a module on.
fn resolve(own: &[String], path: Segments) -> Segments {
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    let (kept, rest) = match path[0].as_str() {
        "self" => (own.len(), &path[1..]),
        "super" => (own.len().saturating_sub(ups), &path[ups..]),
        _ => return path,
    };
    let root = ["crate".to_owned()];
    root.iter().chain(&own[..kept]).chain(rest).cloned().collect()
}

fn sources_in(folder: &Path, module: &[String], into: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let file = entry.path();
        let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let below: Segments = match stem.as_str() {
            "lib" | "main" | "mod" => module.to_vec(),
            _ => module.iter().cloned().chain([stem]).collect(),
        };
        if file.is_dir() {
            sources_in(&file, &below, into);
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&file).unwrap();
            into.push(Source {
                name: file.display().to_string(),
                named: paths(&below, tokens(&text)),
                module: below,
            });
        }
    }
}

/// The sources of a crate in this folder, which is below `frontend`.
fn sources(folder: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    sources_in(&folder, &[], &mut sources);
    assert!(sources.len() > 10, "{} holds few sources", folder.display());
    sources
}

/// The module at this depth that a path from the crate's root leads through.
fn at(depth: usize, path: &[String]) -> Option<&str> {
    let is_of_crate = path.first().is_some_and(|first| first == "crate");
    path.get(depth + 1).filter(|_| is_of_crate).map(String::as_str)
}

/// A path that stands for a clock, a socket, a thread or a task.
fn is_effect(path: &[String]) -> bool {
    const CRATES: [&str; 8] = [
        "async_std",
        "hyper",
        "mio",
        "redis",
        "reqwest",
        "smol",
        "socket2",
        "tokio",
    ];
    const NAMES: [&str; 6] = [
        "SystemTime",
        "TcpListener",
        "TcpStream",
        "UdpSocket",
        "UnixListener",
        "UnixStream",
    ];
    const PARTS: [[&str; 2]; 8] = [
        ["std", "net"],
        ["std", "process"],
        ["std", "thread"],
        ["unix", "net"],
        ["time", "SystemTime"],
        ["Instant", "now"],
        ["Timestamp", "now"],
        ["Zoned", "now"],
    ];
    let is_std_clock = path.len() > 2 && path[..2] == ["std", "time"] && path[2] != "Duration";
    CRATES.contains(&path[0].as_str())
        || path.iter().any(|segment| NAMES.contains(&segment.as_str()))
        || path
            .windows(2)
            .any(|part| PARTS.iter().any(|effect| part == effect))
        || is_std_clock
}

#[test]
fn core_names_no_clock_no_socket_no_thread_and_no_task() {
    for source in sources("core/src") {
        let effect = source.named.iter().find(|named| is_effect(&named.path));
        assert!(effect.is_none(), "{} names {effect:?}", source.name);
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1);
    for line in dependencies.take_while(|line| !line.starts_with('[')) {
        let name = line.split(['.', ' ', '=']).next().unwrap().replace('-', "_");
        assert!(!is_effect(&[name]), "core depends on it: {line}");
    }
}

/// For each of the crate's modules those that it names.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms = BTreeMap::<String, BTreeSet<String>>::new();
    for source in sources("src") {
        let Some(room) = source.module.first() else {
            continue;
        };
        let named = source.named.iter().filter(|named| !named.by_tests);
        let named = named.filter_map(|named| at(0, &named.path));
        let others = named.filter(|other| other != room).map(str::to_owned);
        rooms.entry(room.clone()).or_default().extend(others);
    }
    rooms
}

#[test]
fn the_data_plane_reaches_neither_the_control_plane_nor_a_store() {
    let rooms = rooms();
    for plane in ["query", "model"] {
        assert!(
            rooms[plane].contains("metrics"),
            "it is not read right: {:?}",
            rooms[plane]
        );
        let mut reached = BTreeMap::from([(plane.to_owned(), plane.to_owned())]);
        let mut ahead = vec![plane.to_owned()];
        while let Some(room) = ahead.pop() {
            for next in rooms.get(&room).into_iter().flatten() {
                if !reached.contains_key(next) {
                    reached.insert(next.clone(), format!("{} → {next}", reached[&room]));
                    ahead.push(next.clone());
                }
            }
        }
        for barred in [
            "admin",
            "app",
            "autoscaler",
            "cluster",
            "leadership",
            "reconcile",
            "runtime",
            "store",
        ] {
            assert!(
                rooms.contains_key(barred),
                "{barred} is gone: what has its place?"
            );
            assert_eq!(reached.get(barred), None, "{plane} reaches {barred}");
        }
        let circle = reached
            .keys()
            .find(|room| **room != plane && rooms[*room].contains(plane));
        assert_eq!(circle, None, "{plane} names it, and is named by it");
    }
}

/// For each part of this module of the frontend those of the others that it names, by its tests aside. A name that the
/// module hands on counts as the part that it is of.
fn parts_of(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sources: Vec<_> = sources("src")
        .into_iter()
        .filter(|source| source.module.first().is_some_and(|first| first == room))
        .collect();
    let parts: BTreeSet<_> = sources
        .iter()
        .filter_map(|source| source.module.get(1))
        .filter(|part| *part != "tests")
        .cloned()
        .collect();
    let front = sources
        .iter()
        .filter(|source| source.module.len() == 1)
        .flat_map(|source| &source.named);
    let handed_on: BTreeMap<_, _> = front
        .map(|named| &named.path)
        .filter(|path| path.len() > 1 && parts.contains(&path[0]))
        .map(|path| (path[path.len() - 1].clone(), path[0].clone()))
        .collect();
    let mut named_by = BTreeMap::<String, BTreeSet<String>>::new();
    for source in &sources {
        let Some(part) = source.module.get(1).filter(|part| parts.contains(*part)) else {
            continue;
        };
        if source.module.last().is_some_and(|last| last == "tests") {
            continue;
        }
        let paths = source
            .named
            .iter()
            .filter(|named| !named.by_tests && at(0, &named.path) == Some(room));
        let named = paths.filter_map(|named| at(1, &named.path));
        let others = named
            .map(|name| handed_on.get(name).map_or(name, String::as_str))
            .filter(|other| other != part && parts.contains(*other));
        named_by
            .entry(part.clone())
            .or_default()
            .extend(others.map(str::to_owned));
    }
    named_by
}

#[test]
fn what_models_are_made_of_names_only_what_is_below() {
    let mut parts = parts_of("model");
    assert!(
        parts["table"].contains("handle") && parts["queue"].contains("cache"),
        "it is not read right: {parts:?}"
    );
    // From below: the parts that name none of those that are left.
    while !parts.is_empty() {
        let lowest = parts
            .iter()
            .find(|(_, named)| named.iter().all(|part| !parts.contains_key(part)));
        let Some(lowest) = lowest.map(|(part, _)| part.clone()) else {
            panic!("these name each other in a circle: {parts:?}");
        };
        parts.remove(&lowest);
    }
}

#[test]
fn a_path_is_found_however_it_is_written() {
    let module: Segments = vec!["query".into(), "http".into()];
    let found = |text: &str| -> Vec<String> {
        let named = paths(&module, tokens(text));
        named.iter().map(|named| named.path.join("::")).collect()
    };
    assert_eq!(
        found("use crate::{store, health::{self, Health as H}};"),
        [
            "use",
            "crate::store",
            "crate::health::self",
            "crate::health::Health"
        ]
    );
    assert!(found("fn f() { super::super::store::open::<u8>() }").contains(&"crate::store::open".to_owned()));
    assert!(found("mod tests { use super::super::super::store; }").contains(&"crate::store".to_owned()));
    assert!(found("mod tests { fn f() {} } use super::super::store;").contains(&"crate::store".to_owned()));
    assert!(
        found("let x = 'a'; let y: &'static str = \"crate::store\"; // crate::store")
            .iter()
            .all(|path| !path.contains("store"))
    );
    assert!(found("let x = r#\"crate::store \" \"#; tokio::spawn").contains(&"tokio::spawn".to_owned()));
    assert!(is_effect(&["std".into(), "time".into(), "Instant".into()]));
    assert!(!is_effect(&["std".into(), "time".into(), "Duration".into()]));
    assert!(!is_effect(&["crate".into(), "time".into(), "Instant".into()]));
}
