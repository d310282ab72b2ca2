//! Placeholder root, replaced by the crate's first commit.
