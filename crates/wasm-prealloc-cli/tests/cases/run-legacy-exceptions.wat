;; RUN: run --quiet --pages 16 --invoke run %s
(module
  (tag $error)
  (memory 16 16)
  (func (export "run") (result i32)
    try (result i32)
      throw $error
    catch $error
      i32.const 1
    end))
