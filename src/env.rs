//! Every environment variable, documented; the reference page is generated from this file.
