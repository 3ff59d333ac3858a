//! `sortie __shim`.
