//! Floor 5: the RESP port.
