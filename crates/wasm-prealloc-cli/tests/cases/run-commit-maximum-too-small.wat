;; RUN: run --quiet --policy commit-maximum --pages 16 %s
(module (memory 3) (func (export "_start") unreachable))
