//! The part of a page that a run writes: what stands between two markers.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

const BEGIN: &str = "<!-- benchmarks:begin -->";
const END: &str = "<!-- benchmarks:end -->";

/// Puts text between the markers of a file.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let page = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let page = replaced(&page, text).with_context(|| format!("{} is left as it is", path.display()))?;
    fs::write(path, page).with_context(|| format!("{} cannot be written", path.display()))
}

/// A page with other text between its markers.
fn replaced(page: &str, text: &str) -> anyhow::Result<String> {
    let single = |marker: &str| page.matches(marker).count() == 1;
    ensure!(
        single(BEGIN) && single(END),
        "it does not have {BEGIN} and {END}, each once"
    );
    let (before, rest) = page.split_once(BEGIN).context("it has no beginning")?;
    let (_, after) = rest
        .split_once(END)
        .context("its markers are the wrong way round")?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
}

/// The way from a page to a file beside it or below it, as a link in the page.
pub(crate) fn link(page: &Path, file: &Path) -> String {
    let folder = page.parent().unwrap_or(Path::new(""));
    file.strip_prefix(folder).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = format!("# A\n\n{BEGIN}\nold\n{END}\n\n# B\n");
        let once = replaced(&page, "new\n").unwrap();
        assert_eq!(once, format!("# A\n\n{BEGIN}\n\nnew\n\n{END}\n\n# B\n"));
        assert_eq!(
            replaced(&once, "new").unwrap(),
            once,
            "written again, it stays as it is"
        );
    }

    #[test]
    fn a_page_without_both_markers_in_their_order_is_left_alone() {
        for page in [
            String::new(),
            BEGIN.to_owned(),
            format!("{END} {BEGIN}"),
            format!("{BEGIN} {END} {BEGIN} {END}"),
        ] {
            assert!(replaced(&page, "new").is_err(), "{page}");
        }
    }

    #[test]
    fn a_link_starts_at_the_page() {
        for (page, file, expected) in [
            ("docs/benchmarks.md", "docs/goodput.svg", "goodput.svg"),
            ("README.md", "docs/goodput.svg", "docs/goodput.svg"),
            ("/a/README.md", "/a/b/goodput.svg", "b/goodput.svg"),
        ] {
            assert_eq!(link(Path::new(page), Path::new(file)), expected);
        }
    }
}
