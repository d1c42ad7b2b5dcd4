;; RUN: rewrite %s -o %t --pages 100
(module
  (memory 1 9)
  (tag $thrown)
  (func (export "catch") (result i32)
    try (result i32)
      throw $thrown
    catch $thrown
      memory.size
    end))
