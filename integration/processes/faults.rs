//! Kills, pauses and cuts of members that serve.
