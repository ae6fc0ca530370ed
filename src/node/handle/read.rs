//! Reading JSON as its description has it, which `serde` takes more lightly: a document is an object, never the list
//! of its fields' values; and 3.0 is a whole number.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A document that was written as an object.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Reader<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, in braces")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Reader(PhantomData)).map(Self)
    }
}

/// Whole numbers, however they are written.
pub(super) mod whole {
    use serde::de::{Deserialize, Deserializer, Error, Visitor};
    use std::fmt;

    struct Whole(i64);

    impl<'de> Deserialize<'de> for Whole {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Reader;
            impl Visitor<'_> for Reader {
                type Value = Whole;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a whole number of 64 bits")
                }

                fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                    Ok(Whole(number))
                }

                fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                    i64::try_from(number).map(Whole).map_err(|_| E::custom("a number is beyond 64 bits"))
                }

                fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                    // Its text has no fraction and no exponent then, and each number up to there has one of its own.
                    let is_exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
                    let whole = if is_exact { format!("{number:.0}").parse().ok() } else { None };
                    whole.map(Whole).ok_or_else(|| E::custom(format!("{number} is not a whole number")))
                }
            }
            deserializer.deserialize_any(Reader)
        }
    }

    pub(in crate::node::handle) fn required<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        Whole::deserialize(from).map(|whole| whole.0)
    }

    pub(in crate::node::handle) fn optional<'de, D>(from: D) -> Result<Option<i64>, D::Error>
    where
        D: Deserializer<'de>,
    {
        Ok(Option::<Whole>::deserialize(from)?.map(|whole| whole.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::documents::{Entry, Ttl};

    #[test]
    fn a_document_is_an_object_and_no_list() {
        assert!(Entry::parse(r#"["get",null,"k",null,null,null,null,null,null,null]"#).is_err());
        assert!(Entry::parse(r#"{"key":"k"}"#).is_ok());
    }

    #[test]
    fn whole_numbers_may_have_a_point_and_others_are_refused() {
        let entry = |text: &str| Entry::parse(&format!(r#"{{"key":"k",{text}}}"#));
        assert_eq!(entry(r#""delta":-3.0"#).unwrap().delta, Some(-3));
        assert_eq!(entry(r#""delta":9223372036854775807"#).unwrap().delta, Some(i64::MAX));
        assert_eq!(entry(r#""ttl":1e3"#).unwrap().ttl, Some(Ttl::Seconds(1_000)));
        for wrong in [r#""delta":0.5"#, r#""delta":9223372036854775808"#, r#""delta":1e17"#, r#""ttl":1.5"#] {
            assert!(entry(wrong).is_err(), "{wrong}");
        }
    }
}
