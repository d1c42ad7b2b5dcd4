//! Values in the specification's scripts: arguments, and patterns for results.

use wasmtime::{AnyRef, ExternRef, Store, Val};
use wast::core::{AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::token::{F32, F64};
use wast::{WastArg, WastRet};

/// Converts an argument to the engine's value. `None` if the engine has no such value.
pub(super) fn argument(store: &mut Store<()>, arg: &WastArg<'_>) -> Option<Val> {
    let WastArg::Core(arg) = arg else { return None };
    Some(match arg {
        WastArgCore::I32(n) => Val::I32(*n),
        WastArgCore::I64(n) => Val::I64(*n),
        WastArgCore::F32(n) => Val::F32(n.bits),
        WastArgCore::F64(n) => Val::F64(n.bits),
        WastArgCore::V128(n) => Val::V128(u128::from_le_bytes(n.to_le_bytes()).into()),
        WastArgCore::RefNull(ty) => null(ty)?,
        WastArgCore::RefExtern(n) => Val::ExternRef(Some(ExternRef::new(store, *n).ok()?)),
        WastArgCore::RefHost(n) => {
            let host = ExternRef::new(&mut *store, *n).ok()?;
            Val::AnyRef(Some(AnyRef::convert_extern(store, host).ok()?))
        }
    })
}

fn null(ty: &HeapType<'_>) -> Option<Val> {
    let HeapType::Abstract { ty, .. } = ty else {
        return None;
    };
    use AbstractHeapType as Heap;
    Some(match ty {
        Heap::Func | Heap::NoFunc => Val::FuncRef(None),
        Heap::Extern | Heap::NoExtern => Val::ExternRef(None),
        Heap::Exn | Heap::NoExn => Val::ExnRef(None),
        Heap::Any | Heap::Eq | Heap::Struct | Heap::Array | Heap::I31 | Heap::None => {
            Val::AnyRef(None)
        }
        _ => return None,
    })
}

/// Formats a value. Numbers are shown as bits.
pub(super) fn in_words(value: &Val) -> String {
    match value {
        Val::I32(n) => format!("i32 {n:#x}"),
        Val::I64(n) => format!("i64 {n:#x}"),
        Val::F32(bits) => format!("f32 {bits:#x}"),
        Val::F64(bits) => format!("f64 {bits:#x}"),
        Val::V128(bits) => format!("v128 {:#x}", bits.as_u128()),
        reference if is_null(reference) => "null".to_owned(),
        _ => "a reference".to_owned(),
    }
}

fn is_null(value: &Val) -> bool {
    matches!(
        value,
        Val::FuncRef(None) | Val::ExternRef(None) | Val::AnyRef(None) | Val::ExnRef(None)
    )
}

/// Returns true if a result matches a script's pattern.
pub(super) fn matches(store: &Store<()>, value: &Val, expected: &WastRet<'_>) -> bool {
    match expected {
        WastRet::Core(expected) => matches_core(store, value, expected),
        _ => false,
    }
}

fn matches_core(store: &Store<()>, value: &Val, expected: &WastRetCore<'_>) -> bool {
    match (value, expected) {
        (_, WastRetCore::Either(choices)) => choices.iter().any(|e| matches_core(store, value, e)),
        (Val::I32(n), WastRetCore::I32(e)) => n == e,
        (Val::I64(n), WastRetCore::I64(e)) => n == e,
        (Val::F32(n), WastRetCore::F32(e)) => f32_matches(*n, e),
        (Val::F64(n), WastRetCore::F64(e)) => f64_matches(*n, e),
        (Val::V128(n), WastRetCore::V128(e)) => v128_matches(n.as_u128(), e),
        (_, WastRetCore::RefNull(_)) => is_null(value),
        (reference, _) if is_null(reference) => false,
        (Val::FuncRef(_), WastRetCore::RefFunc(_)) => true,
        (Val::ExternRef(_), WastRetCore::RefExtern(None)) => true,
        (Val::ExternRef(Some(r)), WastRetCore::RefExtern(Some(e))) => {
            host_data(store, r) == Some(*e)
        }
        (Val::AnyRef(Some(r)), expected) => match expected {
            WastRetCore::RefAny | WastRetCore::RefHost(_) => true,
            WastRetCore::RefEq => r.is_eqref(store).unwrap_or(false),
            WastRetCore::RefI31 => r.is_i31(store).unwrap_or(false),
            WastRetCore::RefStruct => r.is_struct(store).unwrap_or(false),
            WastRetCore::RefArray => r.is_array(store).unwrap_or(false),
            _ => false,
        },
        _ => false,
    }
}

fn host_data(store: &Store<()>, reference: &wasmtime::Rooted<ExternRef>) -> Option<u32> {
    reference.data(store).ok()??.downcast_ref::<u32>().copied()
}

/// A canonical NaN is quiet and has no payload (core specification, "NaN Propagation"). An
/// arithmetic NaN is quiet.
fn f32_matches(bits: u32, expected: &NanPattern<F32>) -> bool {
    match expected {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => bits & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn f64_matches(bits: u64, expected: &NanPattern<F64>) -> bool {
    const QUIET: u64 = 0x7ff8_0000_0000_0000;
    match expected {
        NanPattern::CanonicalNan => bits & !(1 << 63) == QUIET,
        NanPattern::ArithmeticNan => bits & QUIET == QUIET,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn v128_matches(bits: u128, expected: &V128Pattern) -> bool {
    let bytes = bits.to_le_bytes();
    let lane32 = |lane: usize| (bits >> (32 * lane)) as u32;
    let lane64 = |lane: usize| (bits >> (64 * lane)) as u64;
    match expected {
        V128Pattern::I8x16(lanes) => lanes.map(i8::cast_unsigned) == bytes,
        V128Pattern::I16x8(lanes) => lanes.iter().flat_map(|lane| lane.to_le_bytes()).eq(bytes),
        V128Pattern::I32x4(lanes) => (0..4).all(|i| lane32(i) == lanes[i].cast_unsigned()),
        V128Pattern::I64x2(lanes) => (0..2).all(|i| lane64(i) == lanes[i].cast_unsigned()),
        V128Pattern::F32x4(lanes) => (0..4).all(|i| f32_matches(lane32(i), &lanes[i])),
        V128Pattern::F64x2(lanes) => (0..2).all(|i| f64_matches(lane64(i), &lanes[i])),
    }
}
