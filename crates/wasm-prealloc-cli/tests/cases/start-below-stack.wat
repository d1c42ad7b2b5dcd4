;; RUN: rewrite %s -o %t --emulate-from 1
(module (memory (export "memory") 17 100)  ;; Pages 0 to 16 hold the stack and static data.
  (global $sp (mut i32) (i32.const 1048576))
  (func (export "push") (i32.store (i32.const 1048572) (i32.const 0x11223344)))
  (func (export "pop") (result i32) (i32.load (i32.const 1048572)))
  (func (export "alloc") (result i32) (local i32)
     (local.set 0 (i32.shl (memory.grow (i32.const 16)) (i32.const 16)))
     (memory.fill (local.get 0) (i32.const 0xff) (i32.const 1048576))
     (local.get 0)))
