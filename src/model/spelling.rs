//! What somebody meant who wrote a name that there is not.

/// The known name that is most like a text; nothing if none is so near that it may have been meant.
#[must_use]
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.filter_map(|known| {
        let distance = strsim::damerau_levenshtein(text, known);
        (2 * distance <= known.chars().count()).then_some((distance, known))
    });
    near.min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_what_may_have_been_meant_is_nearest() {
        let known = ["write_level", "read_level", "sync"];
        let nearest = |text| nearest(text, known.into_iter());
        assert_eq!(nearest("wriet_level"), Some("write_level"));
        assert_eq!(nearest("snc"), Some("sync"));
        assert_eq!((nearest("partitions"), nearest(""), nearest("xyzzy")), (None, None, None));
    }
}
