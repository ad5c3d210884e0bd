//! The lives of a store: how generations follow each other, and which other lives one takes the place of.

use skysail_core::catalog::Generation;

/// The generation that follows `current`; the first write to a store draws its incarnation.
pub(super) fn generation_after(current: &Generation) -> Generation {
    let incarnation = if current.incarnation.is_empty() {
        fresh_incarnation()
    } else {
        current.incarnation.clone()
    };
    Generation {
        incarnation,
        number: current.number + 1,
    }
}

/// How many lives a store remembers to have replaced. A frontend would have to be away for as many decisions
/// to be asked once more.
const REMEMBERED: usize = 16;

/// The lives whose place a store takes: the newest first, each once, and no more than are remembered.
pub(super) fn remembered_lives(lives: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut remembered = Vec::new();
    for life in lives {
        if !life.is_empty() && !remembered.contains(&life) {
            remembered.push(life);
        }
    }
    remembered.truncate(REMEMBERED);
    remembered
}

/// A name for a store's life that no other life has.
pub(super) fn fresh_incarnation() -> String {
    format!("{:016x}", fastrand::u64(..))
}
