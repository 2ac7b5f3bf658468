//! Buffers of results that are not cleared before the kernel fills them.

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use std::mem::MaybeUninit;

/// A result under construction.
pub(crate) struct Output {
    values: Vec<f32>,
    shape: Shape,
}

impl Output {
    /// Room for a tensor of this shape.
    pub(crate) fn new(shape: Shape) -> Self {
        Self { values: Vec::with_capacity(shape.num_elements()), shape }
    }

    /// The numbers to fill, in row-major order.
    pub(crate) fn slots(&mut self) -> &mut [MaybeUninit<f32>] {
        &mut self.values.spare_capacity_mut()[..self.shape.num_elements()]
    }

    /// The slots as a pointer that tasks may share.
    pub(crate) fn shared(&mut self) -> Shared {
        Shared::new(self.slots())
    }

    /// The finished tensor.
    ///
    /// # Safety
    /// Every slot must have been written.
    pub(crate) unsafe fn finish(mut self) -> FlexTensor {
        // SAFETY: the capacity was reserved by `new`, and the caller wrote every slot.
        unsafe { self.values.set_len(self.shape.num_elements()) };
        FlexTensor::new(Bytes::from_elems(self.values), Layout::contiguous(self.shape), DType::F32)
    }
}

/// A pointer into an [`Output`] for tasks that write places no other task touches but that interleave in memory (the heads of a row).
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: it is an address only; each use states why the places written are the task's own.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The address of the first slot; the slots may be written while they are borrowed.
    pub(crate) fn new(slots: &mut [MaybeUninit<f32>]) -> Self {
        Self(slots.as_mut_ptr().cast())
    }

    /// The address `offset` numbers further on.
    ///
    /// # Safety
    /// The offset must lie within the output.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: by the caller's promise.
        unsafe { self.0.add(offset) }
    }
}
