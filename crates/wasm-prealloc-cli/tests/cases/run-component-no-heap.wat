;; RUN: run -q --pages 16 --engine-heap-bytes 0 --invoke errors %s 10
;; Exceptions need the engine's own heap.
(component
  (core module $m
    (tag $error (param i32))
    (memory 16 16)
    (func (export "errors") (param i32) (result i32)
      (block $handler (result i32)
        (try_table (result i32) (catch $error $handler) (throw $error (local.get 0))))))
  (core instance $i (instantiate $m))
  (func (export "errors") (param "n" u32) (result u32) (canon lift (core func $i "errors"))))
