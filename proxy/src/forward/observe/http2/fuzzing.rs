//! What the fuzz target sees of this module.
