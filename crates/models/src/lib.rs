//! Models: immutable weights under the checkpoint's own names
