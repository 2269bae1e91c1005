//! The files of the live page, built in. They hold no data, so they are shown to anybody: the page
//! itself asks for the token.

use std::sync::LazyLock;

use warp::http::HeaderValue;
use xxhash_rust::xxh3::xxh3_128;

/// A file and how it is served.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    pub(super) kind: &'static str,
    pub(super) bytes: &'static [u8],
    /// Changes with the bytes.
    pub(super) tag: HeaderValue,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal: $kind:expr,)*) => {
        &[$(($name, $kind, include_bytes!(concat!("page/", $name)))),*]
    };
}

/// Name below `/page/`, type, contents.
const FILES: &[(&str, &str, &[u8])] = files![
    "index.html": HTML,
    "style.css": CSS,
    "icon.svg": "image/svg+xml",
    "main.js": SCRIPT,
    "api.js": SCRIPT,
    "fleet.js": SCRIPT,
    "format.js": SCRIPT,
    "incidents.js": SCRIPT,
    "sensor.js": SCRIPT,
    "status.js": SCRIPT,
    "vendor/uPlot.iife.min.js": SCRIPT,
    "vendor/uPlot.min.css": CSS,
    "vendor/LICENSE": "text/plain; charset=utf-8",
];

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let asset = |(name, kind, bytes): &(&'static str, &'static str, &'static [u8])| {
        let tag = format!("\"{:032x}\"", xxh3_128(bytes));
        Asset {
            name,
            kind,
            bytes,
            tag: HeaderValue::from_str(&tag).expect("digits in quotes"),
        }
    };
    FILES.iter().map(asset).collect()
});

/// The file of that name.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file that the page names is there, and nothing of it comes from elsewhere.
    #[test]
    fn the_page_is_complete() {
        for asset in ASSETS
            .iter()
            .filter(|asset| asset.kind != "text/plain; charset=utf-8")
        {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let own = !asset.name.starts_with("vendor/");
            for scheme in ["http://", "https://"] {
                let foreign = text.replace("http://www.w3.org/", "");
                // What is vendored names its home in a comment.
                assert!(
                    !own || !foreign.contains(scheme),
                    "{} names {scheme}",
                    asset.name
                );
            }
            assert!(!own || !text.contains("innerHTML"), "{}", asset.name);
            for quoted in text.split('"').filter(|_| own) {
                if let Some(name) = quoted.strip_prefix("page/") {
                    assert!(find(name).is_some(), "{} names {name}", asset.name);
                }
                if let Some(name) = quoted.strip_prefix("./") {
                    assert!(find(name).is_some(), "{} imports {name}", asset.name);
                }
            }
        }
        let page = std::str::from_utf8(find("index.html").unwrap().bytes).unwrap();
        for inline in ["<style", "style=", "onclick", "<script>"] {
            assert!(
                !page.contains(inline),
                "{inline} is not allowed by the page's own policy"
            );
        }
    }
}
