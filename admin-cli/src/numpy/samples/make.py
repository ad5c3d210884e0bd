"""Makes the files that the tests read, with NumPy 2: `python make.py`, in this folder."""

import numpy as np
from numpy.lib import format

a = np.arange(6).reshape(2, 3)
for name in ["bool", "u1", "<u2", ">u4", "<u8", "i1", ">i2", "<i4", "<i8", "<f2", ">f4", "<f4", ">f8", "<f8"]:
    np.save(f"{np.dtype(name).name}{'_big' if name[0] == '>' else ''}.npy", (a % 2 if name == "bool" else a).astype(name))
np.save("fortran.npy", np.asfortranarray(a.astype("f4")))
np.save("fortran_3d.npy", np.asfortranarray(np.arange(24, dtype=">i2").reshape(2, 3, 4)))
np.save("scalar.npy", np.float32(1.5))
np.save("empty.npy", np.zeros((0, 3), "f4"))
np.save("bytes.npy", np.array([b"a", b"", b"\xff\x00b"]))
np.save("text.npy", np.array(["a", "", "grün"], dtype="<U5"))
np.save("text_big.npy", np.array(["a", "", "grün"], dtype=">U5"))
np.save("objects.npy", np.array([{}, 1], dtype=object))
np.save("records.npy", np.zeros(2, dtype=[("x", "f4"), ("y", "i4")]))
np.save("complex.npy", np.zeros(2, "c8"))
for version in [(2, 0), (3, 0)]:
    with open(f"version_{version[0]}.npy", "wb") as file:
        format.write_array(file, a.astype("f4"), version=version)
image, mask = a.astype("f4"), np.array([True, False, True])
np.savez("named.npz", mask=mask, image=image)
np.savez_compressed("deflated.npz", image=image, mask=mask)
np.savez("unnamed.npz", image, mask)
np.savez("batch.npz", image=np.stack([image, image + 1]), mask=np.stack([mask, ~mask]))
np.savez("uneven.npz", image=np.stack([image, image + 1]), mask=np.stack([mask, ~mask, mask]))
