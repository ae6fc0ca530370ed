//! The page from which people look at a cluster and change it: its files, as every member has them in its binary.
//!
//! It is plain HTML, style and script modules under `assets`, with no build step and nothing from elsewhere. It talks to the
//! member that served it, over the same HTTP as everybody ([`crate::http`], which serves these files), and may do
//! what the shown token may.
//!
//! Invariants, which the tests hold: nothing outside the member is referred to; no file has script or style inside
//! markup, so a policy without `unsafe-inline` serves; what comes from the cluster enters the page as text only.

use std::sync::LazyLock;

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Its name, without the path at which it is served.
    pub name: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// What is in it.
    pub text: &'static str,
    tag: LazyLock<String>,
}

impl Asset {
    /// Its entity tag, quotes included: it changes with the text and with nothing else.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

macro_rules! asset {
    ($folder:literal, $name:literal, $media_type:literal) => {{
        const TEXT: &str = include_str!(concat!("assets/", $folder, $name));
        Asset {
            name: $name,
            media_type: concat!($media_type, "; charset=utf-8"),
            text: TEXT,
            tag: LazyLock::new(|| format!("\"{}\"", blake3::hash(TEXT.as_bytes()).to_hex())),
        }
    }};
}

macro_rules! scripts {
    ($($name:literal),+) => {
        [$(asset!("script/", $name, "text/javascript")),+]
    };
}

static PAGE: Asset = asset!("", "page.html", "text/html");
static STYLE: Asset = asset!("", "style.css", "text/css");
static ICON: Asset = asset!("", "icon.svg", "image/svg+xml");
static SCRIPTS: [Asset; 16] = scripts![
    "api.js",
    "bytes.js",
    "cluster.js",
    "convergence.js",
    "difference.js",
    "dom.js",
    "events.js",
    "format.js",
    "history.js",
    "keys.js",
    "main.js",
    "metrics.js",
    "partitions.js",
    "plots.js",
    "settings.js",
    "token.js"
];

/// The page itself.
#[must_use]
pub fn page() -> &'static Asset {
    &PAGE
}

/// How it looks.
#[must_use]
pub fn style() -> &'static Asset {
    &STYLE
}

/// Its icon.
#[must_use]
pub fn icon() -> &'static Asset {
    &ICON
}

/// What it does, by name.
pub fn scripts() -> impl Iterator<Item = &'static Asset> {
    SCRIPTS.iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn all() -> impl Iterator<Item = &'static Asset> {
        [page(), style(), icon()].into_iter().chain(scripts())
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/terminal/assets");
        let names = |directory: &Path| -> BTreeSet<String> {
            let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
            let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
            files.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        let served: BTreeSet<String> = scripts().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(names(&directory.join("script")), served);
        assert_eq!(names(&directory).len(), 3);
    }

    #[test]
    fn nothing_outside_the_member_is_referred_to() {
        for asset in all() {
            // The names of XML's vocabularies are no places.
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for outside in
                ["http://", "https://", "ws://", "wss://", "@import", "url(", "src=\"//", "href=\"//"]
            {
                assert!(!text.contains(outside), "{} has {outside}", asset.name);
            }
        }
    }

    #[test]
    fn markup_has_no_script_and_no_style_inside() {
        for asset in [page(), icon()] {
            for inside in ["<style", "style=", "javascript:", " onclick", " onload", " onerror", " onsubmit"]
            {
                assert!(!asset.text.contains(inside), "{} has {inside}", asset.name);
            }
            assert!(!asset.text.contains("<script>"), "{}", asset.name);
        }
    }

    #[test]
    fn what_comes_from_the_cluster_enters_the_page_as_text_only() {
        for asset in scripts() {
            for hole in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
            {
                assert!(!asset.text.contains(hole), "{} uses {hole}", asset.name);
            }
            for kept in ["localStorage", "document.cookie"] {
                assert!(!asset.text.contains(kept), "{} keeps a token in {kept}", asset.name);
            }
        }
    }

    #[test]
    fn tags_are_those_of_the_texts() {
        let tags: BTreeSet<&str> = all().map(Asset::tag).collect();
        assert_eq!(tags.len(), all().count());
    }
}
