;; RUN: run -q --pages 16 %s
(module (memory 16 16) (func $start (export "_start") (drop (i32.load (i32.const 1048576)))))
