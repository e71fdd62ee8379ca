using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Conformance.Scripts;

/// <summary>The steps that go by rings, pipes and userfaultfd, and those that change a process's rights.</summary>
public sealed partial class FramePinSystem
{
    private string Register(int process, SpaceId space, ulong address, ulong length)
    {
        if (_registered.ContainsKey(process)) return "-EBUSY";
        if (!_rings.TryGetValue(process, out var ring))
        {
            if (_machine.SetupRing(space, out var error) is not { } fresh) return Text(error);
            ring = _rings[process] = fresh;
        }

        var result = ring.Register((address, length));
        if (!result.IsOk) return Text(result);
        _dropped = Coalesce(ring.Buffers[0]!);
        _registered.Add(process, new Registration(address, length, _dropped));
        return Text(result);
    }

    private bool Unregister(int process)
    {
        if (!_registered.Remove(process, out var registration)) return false;
        _rings[process].Unregister();
        _dropped = -registration.Dropped;
        return true;
    }

    private string Uffd(SpaceId space, Step step)
    {
        if (!_uffds.TryGetValue(step.Process, out var fd))
        {
            var made = _machine.Call(new CreateUffdCall(space));
            if (!made.IsOk) return Text(made.Error);
            fd = _uffds[step.Process] = new UffdId((int)made.Value);
        }

        return Text(step.Kind switch
        {
            StepKind.UffdRegister => _machine.Call(new RegisterUffdCall(fd, step.A, step.B, (UffdModes)step.C)),
            StepKind.UffdUnregister => _machine.Call(new UnregisterUffdCall(fd, step.A, step.B)),
            StepKind.UffdCopy => _machine.Call(new FillUffdCall(fd, step.A, Filled(Page, step.B))),
            StepKind.UffdZero => _machine.Call(new FillUffdCall(fd, step.A, [])),
            _ => _machine.Call(new ProtectUffdCall(fd, step.A, step.B, step.C != 0)),
        });
    }

    private string Limit(SpaceId space, ulong resource, ulong bytes)
    {
        var task = View(space)!.Task;
        _machine.Call(new SetTaskCall(space, resource switch
        {
            2 => task with { RlimitData = bytes },
            3 => task with { RlimitStack = bytes },
            8 => task with { RlimitMemlock = bytes },
            9 => task with { RlimitAddressSpace = bytes },
            _ => throw new ArgumentException($"no limit {resource}"),
        }));
        return "0x0";
    }

    private string DropRights(SpaceId space)
    {
        if (!Initial.IsPrivileged) return "-EPERM";
        var task = View(space)!.Task with
        {
            CanLockMemory = false,
            CanMapLow = false,
            IsAdmin = false,
            OwnsFiles = false,
            User = 1,
        };
        _machine.Call(new SetTaskCall(space, task));
        return "ok";
    }

    /// <summary>
    /// The pins that io_uring gives back when a buffer lies in large folios of one size, whole but for its ends
    /// (io_uring/rsrc.c: io_check_coalesce_buffer).
    /// </summary>
    private int Coalesce(FrameVector vector)
    {
        var pages = _machine.Query<VectorPagesQuery, IReadOnlyList<PageView>>(new(vector, 0, (int)vector.Count));
        var order = pages[0].Order;
        if (pages.Count == 1 || order == 0) return 0;
        var folios = 1;
        for (var i = 1; i < pages.Count; i++)
        {
            var isNext = pages[i].Pfn.Value == pages[i - 1].Pfn.Value + 1;
            if (pages[i].Head == pages[i - 1].Head && isNext) continue;
            var isWhole = pages[i - 1].Pfn.Value - pages[i - 1].Head.Value == (1UL << order) - 1;
            if (!isWhole || pages[i].Order != order || pages[i].Pfn != pages[i].Head) return 0;
            folios++;
        }

        return pages.Count - folios;
    }

    private string RegisteredCopy(int process, ulong offset, byte? value)
    {
        if (!_registered.TryGetValue(process, out var registration) || offset >= registration.Length) return "none";
        var one = new byte[] { value ?? 0 };
        var at = Math.Max(registration.Address & ~PageGeometry.PageMask, offset);
        _machine.CopyFrames(_rings[process].Buffers[0]!, at, one, isWrite: value is not null, out _);
        return value is null ? Byte(one[0]) : "ok";
    }

    private string Drain()
    {
        var text = "";
        var one = new byte[1];
        foreach (var vector in _pipe)
        {
            for (var page = 0L; page < vector.Count; page++)
            {
                _machine.CopyFrames(vector, (ulong)page * Page, one, isWrite: false, out _);
                text += " " + Byte(one[0]);
            }

            _machine.Put(vector, isDirty: false);
            _machine.DestroyVector(vector);
        }

        _pipe.Clear();
        return text.Length == 0 ? "empty" : text.TrimStart();
    }
}
