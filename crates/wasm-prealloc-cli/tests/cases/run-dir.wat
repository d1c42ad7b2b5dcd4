;; RUN: run -q --pages 16 --dir . --dir .::/data %s
;; Prints the names of its folders, which are the first descriptors after the standard ones. Exits
;; with the error of the next descriptor: 8, because there is none.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name"
    (func $name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 16 16)
  (func $print_name (param $folder i32)
    (drop (call $get (local.get $folder) (i32.const 0)))
    (drop (call $name (local.get $folder) (i32.const 64) (i32.load (i32.const 4))))
    (i32.store8 (i32.add (i32.const 64) (i32.load (i32.const 4))) (i32.const 10))
    (i32.store (i32.const 16) (i32.const 64))
    (i32.store (i32.const 20) (i32.add (i32.load (i32.const 4)) (i32.const 1)))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32))))
  (func (export "_start")
    (call $print_name (i32.const 3))
    (call $print_name (i32.const 4))
    (call $exit (call $get (i32.const 5) (i32.const 0)))))
