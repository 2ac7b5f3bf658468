//! Parameter-efficient fine-tuning
