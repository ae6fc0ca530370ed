//! Commands that chance makes up: few keys, so that they meet; words that are right, nearly right and wrong.
//!
//! What can't be the same is left out: moments counted from now, DBSIZE (Redis counts what has expired and was not
//! met since), and what stands among the known differences.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const KEYS: &[&str] = &["a", "b", "c", "d", "\u{e4}\r\n", "user:1"];
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "7",
    "10.5",
    "-0.25",
    "x",
    "value",
    " 1",
    "1 ",
    "01",
    "+1",
    "-0",
    "3.0",
    "\r\n\0",
    "inf",
    "nan",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "-3",
    "5",
    "100",
    "01",
    "",
    "x",
    "1.5",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "4294967296",
    "2147483647",
];
/// Fractions that binary numbers tell exactly: here others are exact, too, and in Redis they are not.
const DECIMALS: &[&str] =
    &["0", "0.5", "-0.25", "1.5e2", "3", ".5", "5.", "-7", "x", "", "inf", "-Infinity", "nan", "1e"];
/// Moments in seconds that stay where they are, those that were, and what is none.
const SECONDS: &[&str] = &["4102444800", "5000000000", "1", "0", "-1", "x", "", "9223372036854775807"];
const MILLISECONDS: &[&str] = &["4102444800000", "5000000000123", "1", "0", "-1", "x", "9223372036854775807"];
const CONDITIONS: &[&str] = &["NX", "XX", "GT", "LT", "nx", "FOO", ""];

/// Makes commands up, the same ones from the same number.
pub struct Chance(StdRng);

impl Chance {
    pub fn new(prng_seed: u64) -> Self {
        Self(StdRng::seed_from_u64(prng_seed))
    }

    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of[self.0.random_range(0..of.len())]
    }

    /// Up to `most` words.
    fn some(&mut self, of: &[&'static str], most: usize) -> Vec<&'static str> {
        let count = self.0.random_range(0..=most);
        (0..count).map(|_| self.one(of)).collect()
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.0.random_range(0..many) == 0
    }

    /// The options of SET.
    fn set(&mut self) -> Vec<&'static str> {
        let mut words = vec!["SET", self.one(KEYS), self.one(VALUES)];
        for _ in 0..self.0.random_range(0..4) {
            match self.0.random_range(0..6) {
                0 => words.extend(["EXAT", self.one(SECONDS)]),
                1 => words.extend(["PXAT", self.one(MILLISECONDS)]),
                2 => words.extend(["EX", self.one(&["0", "-1", "x", "9223372036854775807"])]),
                _ => words.push(self.one(&["NX", "XX", "GET", "KEEPTTL", "get", "nx", "FOO", "EXAT"])),
            }
        }
        words
    }

    fn change(&mut self) -> Vec<&'static str> {
        let key = self.one(KEYS);
        match self.0.random_range(0..16) {
            0..3 => self.set(),
            3 => vec![self.one(&["APPEND", "SETNX", "GETSET"]), key, self.one(VALUES)],
            4 => vec![self.one(&["INCR", "DECR", "GETDEL", "PERSIST"]), key],
            5 => vec![self.one(&["INCRBY", "DECRBY"]), key, self.one(NUMBERS)],
            // Of a number on its own, for large ones with a fraction are not as exact in Redis.
            6 if self.one_in(8) => vec!["SET", "f", self.one(DECIMALS)],
            6 => vec!["INCRBYFLOAT", "f", self.one(DECIMALS)],
            7 => vec!["SETRANGE", key, self.one(&["0", "1", "7", "-1", "x", "536870912"]), self.one(VALUES)],
            8 => vec![
                self.one(&["SETEX", "PSETEX"]),
                key,
                self.one(&["0", "-1", "x", "9223372036854775807"]),
                "v",
            ],
            9 => [vec!["EXPIREAT", key, self.one(SECONDS)], self.some(CONDITIONS, 2)].concat(),
            10 => [vec!["PEXPIREAT", key, self.one(MILLISECONDS)], self.some(CONDITIONS, 2)].concat(),
            11 => vec!["MSET", key, self.one(VALUES), self.one(KEYS), self.one(VALUES)],
            12 => vec!["RENAME", key, self.one(KEYS)],
            13 => {
                let options = self.some(&["REPLACE", "DB", "0", "1", "replace", "x"], 3);
                [vec!["COPY", key, self.one(KEYS)], options].concat()
            }
            14 => vec!["GETEX", key, self.one(&["PERSIST", "FOO", "KEEPTTL"])],
            _ => [vec![self.one(&["DEL", "UNLINK"]), key], self.some(KEYS, 2)].concat(),
        }
    }

    fn look(&mut self) -> Vec<&'static str> {
        let key = self.one(KEYS);
        match self.0.random_range(0..7) {
            0 => vec!["GETRANGE", key, self.one(NUMBERS), self.one(NUMBERS)],
            1 => [vec!["MGET", key], self.some(KEYS, 3)].concat(),
            2 => [vec![self.one(&["EXISTS", "TOUCH"]), key], self.some(KEYS, 3)].concat(),
            3 => vec![self.one(&["EXPIRETIME", "PEXPIRETIME"]), key],
            4 => [&["EXISTS"], KEYS].concat(),
            5 => vec!["SELECT", self.one(&["0", "1", "x", "", "-1"])],
            _ => vec![self.one(&["GET", "STRLEN", "TYPE", "SUBSTR", "ECHO"]), key],
        }
    }

    /// A command as it is sent, and as people read it.
    pub fn command(&mut self) -> (Vec<u8>, String) {
        let mut words = if self.one_in(3) { self.look() } else { self.change() };
        if self.one_in(20) {
            words.push(self.one(&["x", "1", "\r\n\0"]));
        }
        if self.one_in(20) && words.len() > 1 {
            words.pop();
        }
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in &words {
            bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        (bytes, words.iter().map(|word| format!("{word:?} ")).collect())
    }
}
