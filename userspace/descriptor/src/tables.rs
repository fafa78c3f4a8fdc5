// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tables themselves, one file per version, written by `tables.py` from NVIDIA's headers.
//!
//! Names and positions come from the files `cl*qmd.h`, which carry this notice:
//!
//! > Copyright (c) 2001-2010, 2016, 2020, 2023, 2025 NVIDIA CORPORATION. All rights reserved.
//! >
//! > Permission is hereby granted, free of charge, to any person obtaining a copy of this
//! > software and associated documentation files (the "Software"), to deal in the Software
//! > without restriction, including without limitation the rights to use, copy, modify,
//! > merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
//! > persons to whom the Software is furnished to do so, subject to the following conditions:
//! >
//! > The above copyright notice and this permission notice shall be included in all copies
//! > or substantial portions of the Software.
//! >
//! > THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED,
//! > INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR
//! > PURPOSE AND NONINFRINGEMENT.  IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
//! > LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,
//! > TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE
//! > OR OTHER DEALINGS IN THE SOFTWARE.
//! >

pub(crate) mod v00_06;
pub(crate) mod v01_06;
pub(crate) mod v01_07;
pub(crate) mod v02_00;
pub(crate) mod v02_01;
pub(crate) mod v02_02;
pub(crate) mod v02_03;
pub(crate) mod v02_04;
pub(crate) mod v03_00;
pub(crate) mod v04_00;
pub(crate) mod v04_01;
pub(crate) mod v05_00;
pub(crate) mod v05_01;
