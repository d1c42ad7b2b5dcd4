;; RUN: run -q --policy commit-maximum --invoke all %s true -1 255 -300 65535 -7 4294967295 -9 18446744073709551615 0.5 -0.25
;; One parameter of each type of number.
(component
  (core module $m
    (memory 1 2)
    (func (export "all") (param i32 i32 i32 i32 i32 i32 i32 i64 i64 f32 f64) (result f64)
      (f64.add
        (f64.add (f64.convert_i32_s (i32.add (local.get 0) (local.get 3)))
          (f64.convert_i64_s (i64.add (local.get 7) (local.get 8))))
        (f64.add (f64.promote_f32 (local.get 9)) (local.get 10)))))
  (core instance $i (instantiate $m))
  (func (export "all") (param "a" bool) (param "b" s8) (param "c" u8) (param "d" s16)
    (param "e" u16) (param "f" s32) (param "g" u32) (param "h" s64) (param "i" u64)
    (param "j" f32) (param "k" f64) (result f64)
    (canon lift (core func $i "all"))))
