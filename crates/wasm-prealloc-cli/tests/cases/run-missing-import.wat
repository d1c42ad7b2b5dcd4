;; RUN: run --pages 16 %s
(module (import "env" "f" (func)) (memory 16 16) (func (export "_start") unreachable))
