//! Replies as they come, and taken apart.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string, a number, an error or nothing: its bytes.
    Plain(Vec<u8>),
    /// A list, a set or a map, whose names and values follow in turn.
    List(Vec<Value>),
}

impl Value {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::List(_) => panic!("{self:?} is a list"),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(values) => values,
            Self::Plain(_) => panic!("{self:?} is no list"),
        }
    }

    /// What follows a name in a map.
    pub fn field(&self, name: &str) -> Self {
        let at = self.list().iter().position(|value| *value == Self::Plain(name.as_bytes().to_vec()));
        self.list()[at.unwrap() + 1].clone()
    }

    /// The same without a name, and what follows it, in any map.
    pub fn without(&self, name: &str) -> Self {
        let Self::List(values) = self else { return self.clone() };
        let mut kept = Vec::new();
        let mut values = values.iter();
        while let Some(value) = values.next() {
            if *value == Self::Plain(name.as_bytes().to_vec()) {
                values.next();
            } else {
                kept.push(value.without(name));
            }
        }
        Self::List(kept)
    }
}

/// The bytes of one reply.
pub async fn read_reply(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut reply, mut missing) = (Vec::new(), 1);
    while missing > 0 {
        missing -= 1;
        let start = reply.len();
        assert!(stream.read_until(b'\n', &mut reply).await.unwrap() > 0, "the connection ended");
        let line = &reply[start..];
        let count = || std::str::from_utf8(&line[1..]).unwrap().trim().parse::<i64>().unwrap();
        match line[0] {
            b'$' | b'=' if count() >= 0 => {
                let mut bytes = vec![0; usize::try_from(count()).unwrap() + 2];
                stream.read_exact(&mut bytes).await.unwrap();
                reply.extend_from_slice(&bytes);
            }
            b'*' | b'~' | b'>' => missing += count().max(0),
            b'%' => missing += 2 * count(),
            _ => {}
        }
    }
    reply
}

/// Takes one reply apart.
pub fn parse(reply: &[u8]) -> Value {
    let (value, rest) = value(reply);
    assert!(rest.is_empty(), "one reply");
    value
}

fn value(input: &[u8]) -> (Value, &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap();
    let (line, mut rest) = (&input[1..end - 1], &input[end + 1..]);
    let count = || std::str::from_utf8(line).unwrap().parse::<i64>().unwrap();
    let elements = match input[0] {
        b'$' | b'=' if count() >= 0 => {
            let length = usize::try_from(count()).unwrap();
            return (Value::Plain(rest[..length].to_vec()), &rest[length + 2..]);
        }
        b'*' | b'~' | b'>' => count().max(0),
        b'%' => 2 * count(),
        _ => return (Value::Plain(line.to_vec()), rest),
    };
    let mut values = Vec::new();
    for _ in 0..elements {
        let (element, after) = value(rest);
        values.push(element);
        rest = after;
    }
    (Value::List(values), rest)
}
