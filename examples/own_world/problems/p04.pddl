(define (problem p04) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white bath) (pot blue bath) (sink hall)
    (in bath) (clean)
    (wall hall white) (bare kitchen) (wall bath white))
  (:goal (and (wall kitchen blue) (wall bath blue))))
