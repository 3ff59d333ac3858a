//! Settings: flag > environment > file > default, each with its origin.
