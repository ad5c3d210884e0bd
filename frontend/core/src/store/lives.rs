//! The lives of a store: how generations follow each other, and which other lives one takes the place of.

use crate::catalog::Generation;

/// How many lives a store remembers to have replaced. A frontend would have to be away for as many decisions
/// to be asked once more.
pub(super) const REMEMBERED: usize = 16;

/// The generation that follows `current`. The first write to a store begins the incarnation `drawn`, a name that
/// no other life has.
pub fn generation_after(current: &Generation, drawn: String) -> Generation {
    let incarnation = if current.incarnation.is_empty() {
        drawn
    } else {
        current.incarnation.clone()
    };
    Generation {
        incarnation,
        number: current.number + 1,
    }
}

/// The lives whose place a store takes: the newest first, each once, and no more than are remembered.
pub fn remembered_lives(lives: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut remembered = Vec::new();
    for life in lives {
        if !life.is_empty() && !remembered.contains(&life) {
            remembered.push(life);
        }
    }
    remembered.truncate(REMEMBERED);
    remembered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_write_begins_a_life() {
        let first = generation_after(&Generation::default(), "a".into());
        assert_eq!((first.incarnation.as_str(), first.number), ("a", 1));
        let second = generation_after(&first, "b".into());
        assert_eq!((second.incarnation.as_str(), second.number), ("a", 2));
    }
}
