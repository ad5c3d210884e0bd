//! The Rust types that elements of tensors are read and written as.

use bytemuck::Pod;
use bytes::Bytes;
use skysail_proto::datatype::Datatype;

/// A number that elements of a tensor are read as: of its own size, little-endian as all machines are that we build for.
///
/// `u8` reads UINT8 and BOOL (0 or 1). `u16` reads UINT16, and FP16 and BF16 as their bits.
pub trait Element: Pod + Send + Sync + private::Sealed {
    /// The datatypes that it reads; the first is the one that it is written as.
    const DATATYPES: &'static [Datatype];
}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($element:ty: $($datatype:ident),+;)*) => {
        $(
            impl private::Sealed for $element {}
            impl Element for $element {
                const DATATYPES: &'static [Datatype] = &[$(Datatype::$datatype),+];
            }
        )*

        /// The name of the Rust type that reads elements of a datatype; `None` for BYTES.
        pub(crate) fn rust_name(datatype: Datatype) -> Option<&'static str> {
            match datatype {
                $($(Datatype::$datatype)|+ => Some(stringify!($element)),)*
                Datatype::Bytes => None,
            }
        }
    };
}

elements! {
    u8: Uint8, Bool;
    u16: Uint16, Fp16, Bf16;
    u32: Uint32;
    u64: Uint64;
    i8: Int8;
    i16: Int16;
    i32: Int32;
    i64: Int64;
    f32: Fp32;
    f64: Fp64;
}

/// Elements as they travel. They are not copied.
pub fn little_endian<T: Element>(elements: Vec<T>) -> Bytes {
    Bytes::from_owner(Owned(elements))
}

/// Elements that are seen as bytes.
struct Owned<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_but_bytes_is_read_as_numbers_of_its_size() {
        fn check<T: Element>() {
            for datatype in T::DATATYPES {
                assert_eq!(datatype.element_bytes(), Some(size_of::<T>()), "{datatype}");
                assert_eq!(rust_name(*datatype), Some(std::any::type_name::<T>()));
            }
        }
        check::<u8>();
        check::<u16>();
        check::<u32>();
        check::<u64>();
        check::<i8>();
        check::<i16>();
        check::<i32>();
        check::<i64>();
        check::<f32>();
        check::<f64>();
        assert_eq!(rust_name(Datatype::Bytes), None);
    }

    #[test]
    fn elements_travel_little_endian() {
        assert_eq!(little_endian(vec![1_u16, 0x0203])[..], [1, 0, 3, 2]);
    }
}
