//! The layout of a store that this version reads and writes.

/// It grows when an older version could not read this version's documents, or this version could not read older
/// ones. A store of any other layout is left alone. Layout 3: documents of all kinds in one place, by
/// `kind/name`.
///
/// A new kind of document needs no new layout: a version that does not know the kind says so.
pub(super) const LAYOUT: u32 = 3;

/// Whether a store of this layout can be used; the error says what to do about it.
pub(super) fn check_layout(found: &str) -> Result<(), String> {
    let (age, remedy) = match found.parse::<u32>() {
        Ok(LAYOUT) => return Ok(()),
        Ok(older) if older < LAYOUT => ("an older", "run that version, or give this one an empty store"),
        Ok(_) => ("a newer", "run that version, or give this one an empty store"),
        Err(_) => {
            return Err(format!(
                "its layout is written as `{}`, which is no number (this version reads layout {LAYOUT}): another \
                 program wrote it, or it was edited; it is left as it is: restore it from a backup, or give this \
                 server an empty store",
                found.escape_debug()
            ));
        }
    };
    Err(format!(
        "it was written by {age} Skysail (it has layout {found}, this version reads layout {LAYOUT}) and is left as it \
         is: {remedy}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_another_layout_is_refused_with_what_to_do() {
        assert_eq!(check_layout("3"), Ok(()));
        for older in ["1", "2"] {
            let said = check_layout(older).unwrap_err();
            assert!(
                said.contains(&format!(
                    "an older Skysail (it has layout {older}, this version reads layout 3)"
                )) && said.contains("empty store"),
                "{said}"
            );
        }
        for newer in ["4", "400"] {
            let newer = check_layout(newer).unwrap_err();
            assert!(newer.contains("a newer Skysail (it has layout "), "{newer}");
        }
        for odd in ["", "new", "-1", "2.0"] {
            let said = check_layout(odd).unwrap_err();
            assert!(
                said.contains(&format!("`{odd}`")) && said.contains("no number") && !said.contains("newer"),
                "{said}"
            );
        }
    }
}
