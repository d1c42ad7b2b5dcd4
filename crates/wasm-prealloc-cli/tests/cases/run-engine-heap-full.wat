;; RUN: run --quiet --pages 16 --engine-heap-bytes 65536 --invoke errors %s 10000
;; The collector frees nothing, so the module traps when the heap is full.
(module
  (tag $error (param i32))
  (memory 16 16)
  (func $parse (param $digit i32) (result i32)
    (if (i32.gt_u (local.get $digit) (i32.const 9)) (then (throw $error (local.get $digit))))
    (local.get $digit))
  ;; Counts the numbers below the argument that are not digits.
  (func (export "errors") (param $numbers i32) (result i32)
    (local $number i32) (local $errors i32)
    (loop $next
      (block $done
        (drop (block $handler (result i32)
          (try_table (catch $error $handler)
            (drop (call $parse (local.get $number)))
            (br $done))
          (unreachable)))
        (local.set $errors (i32.add (local.get $errors) (i32.const 1))))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $number) (local.get $numbers))))
    (local.get $errors)))
