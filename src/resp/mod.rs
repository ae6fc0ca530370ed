//! Floor 5: the RESP port.

mod parse;
