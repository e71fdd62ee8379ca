using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Calls that fault in passing wait for a handler outside that has not answered yet: fault A13 of the list of faults
/// found from outside (fs/userfaultfd.c: handle_userfault).
/// </summary>
public sealed class WaitingCallTests : IDisposable
{
    private const ulong At = 0x1000_0000;
    private const int Pages = 4;
    private const ulong Page = Lab.Page;
    private const byte Filled = 0x5a;
    private const Prot Rw = Prot.Read | Prot.Write;

    private readonly Lab _lab = new();
    private readonly Userfaultfd _fd;
    private readonly List<ulong> _asked = [];

    public WaitingCallTests()
    {
        _lab.Machine.SetTask(_lab.Space, _lab.Space.Task with { CanLockMemory = true, IsAdmin = true });
        _lab.Anon(At, Pages, written: false);
        _fd = _lab.Machine.CreateUserfaultfd(_lab.Space, out _)!;
        Assert.True(_lab.Machine.RegisterUffd(_fd, At, Pages * Page, UffdModes.Missing).IsOk);
        _lab.Machine.Serve(_fd);
    }

    public void Dispose() => _lab.Dispose();

    /// <summary>The calls that are commands, over the whole range.</summary>
    private static readonly Dictionary<string, Func<Machine, SpaceId, SyscallResult>> Commands = new()
    {
        ["MADV_POPULATE_READ"] = (machine, space) =>
            machine.Call(new MadviseCall(space, At, Pages * Page, Advice.PopulateRead)),
        ["MADV_POPULATE_WRITE"] = (machine, space) =>
            machine.Call(new MadviseCall(space, At, Pages * Page, Advice.PopulateWrite)),
        ["mlock"] = (machine, space) => machine.Call(new MlockCall(space, At, Pages * Page, 0)),
        ["mlockall"] = (machine, space) => machine.Call(new MlockAllCall(space, 1)),
    };

    public static TheoryData<string> CommandNames() => [.. Commands.Keys];

    [Theory]
    [MemberData(nameof(CommandNames))]
    public void A13_a_command_waits_at_each_page_and_ends_well(string name)
    {
        var result = Commands[name](_lab.Machine, _lab.Space.Id);
        Assert.Equal(At, result.Rest?.At);
        Assert.NotNull(_lab.Machine.WaitingFault(_lab.Space, At));
        Assert.Equal(SyscallResult.Ok(), GoOn(result));
        Assert.Equal([At, At + Page, At + (2 * Page), At + (3 * Page)], _asked);
        for (var page = 0UL; page < Pages; page++) Assert.Equal(Filled, _lab.Peek(At + (page * Page)));
    }

    /// <summary>A caller that is killed never goes on. The pages before are there.</summary>
    [Theory]
    [MemberData(nameof(CommandNames))]
    public void A13_a_command_that_is_killed_while_it_waits(string name)
    {
        var result = Commands[name](_lab.Machine, _lab.Space.Id);
        Answer(_lab.Space.Id, At);
        result = _lab.Machine.Call(new ResumeCall(_lab.Space.Id, result.Rest!));
        Assert.Equal(At + Page, result.Rest?.At);
        Assert.Equal((Errno.EINTR, true), (result.Error, result.IsPartial));
        Assert.Equal(Filled, _lab.Peek(At));
    }

    /// <summary>The handler ends: the rest of the call finds nobody to ask, and fails as SIGBUS does.</summary>
    [Theory]
    [InlineData("MADV_POPULATE_READ", Errno.None)]
    [InlineData("mlock", Errno.None)]
    public void A13_a_command_goes_on_when_its_handler_ends(string name, Errno expected)
    {
        var result = Commands[name](_lab.Machine, _lab.Space.Id);
        _lab.Machine.Close(_fd);
        Assert.Equal(expected, _lab.Machine.Call(new ResumeCall(_lab.Space.Id, result.Rest!)).Error);
    }

    /// <summary>While a call waits, others change the areas: the rest looks them up anew.</summary>
    [Fact]
    public void A13_the_rest_of_a_call_finds_other_areas()
    {
        var populated = Commands["MADV_POPULATE_READ"](_lab.Machine, _lab.Space.Id);
        var locked = Commands["mlock"](_lab.Machine, _lab.Space.Id);
        Assert.True(_lab.Machine.Munmap(_lab.Space, At + Page, Page).IsOk);
        Answer(_lab.Space.Id, At);
        // MADV_POPULATE meets the hole. mlock, which has locked its areas before, passes over it.
        var error = _lab.Machine.Call(new ResumeCall(_lab.Space.Id, populated.Rest!));
        Assert.Equal((Errno.ENOMEM, true), (error.Error, error.IsPartial));
        Assert.Equal(SyscallResult.Ok(), GoOn(locked));
        // The load and the store of the first page were asked about apart.
        Assert.Equal([At, At, At + (2 * Page), At + (3 * Page)], _asked);
    }

    [Fact]
    public void A13_mmap_with_populate_answers_its_address_behind_the_wait()
    {
        var device = _lab.Machine.CreateDevice(
            "dev", DeviceMapping.ServedPages, Pages, isRam: true, hasClose: false, isWritable: true)!;
        Assert.True(_lab.Machine.Serve(device));
        var result = _lab.Machine.Call(new MmapCall(
            _lab.Space.Id, At + (16 * Page), 2 * Page, Rw, MapFlags.Shared | MapFlags.Populate | MapFlags.Fixed)
        {
            Device = device.Id,
        });
        for (var page = 0UL; page < 2; page++)
        {
            Assert.Equal(At + ((16 + page) * Page), result.Rest?.At);
            var fault = _lab.Machine.WaitingFault(_lab.Space, result.Rest!.At)!;
            Assert.Equal(Errno.None, _lab.Machine.Answer(fault, FaultReply.Page, page));
            result = _lab.Machine.Call(new ResumeCall(_lab.Space.Id, result.Rest));
        }

        Assert.Equal(SyscallResult.Ok(At + (16 * Page)), result);
    }

    /// <summary>A locked area that grows in place is filled behind mmap_lock.</summary>
    [Fact]
    public void A13_mremap_of_locked_memory_waits_in_its_new_part()
    {
        Assert.Equal(SyscallResult.Ok(), GoOn(Commands["mlock"](_lab.Machine, _lab.Space.Id)));
        _asked.Clear();
        var grown = _lab.Machine.Mremap(
            _lab.Space, At, Pages * Page, (Pages + 2) * Page, MremapFlags.MayMove);
        Assert.Equal(SyscallResult.Ok(At), GoOn(grown));
        Assert.Equal([At + (4 * Page), At + (5 * Page)], _asked);
    }

    /// <summary>mprotect populates under mmap_lock: a handler outside is not asked, and nothing waits.</summary>
    [Fact]
    public void A13_mprotect_of_locked_memory_does_not_wait()
    {
        Assert.True(_lab.Machine.Mprotect(_lab.Space, At, Pages * Page, Prot.Read).IsOk);
        Assert.NotNull(Commands["mlock"](_lab.Machine, _lab.Space.Id).Rest);
        _lab.Machine.Wake(_lab.Machine.WaitingFault(_lab.Space, At)!);
        Assert.Equal(SyscallResult.Ok(), _lab.Machine.Mprotect(_lab.Space, At, Pages * Page, Rw));
        Assert.Null(_lab.Machine.WaitingFault(_lab.Space, At));
    }

    [Fact]
    public void A13_madv_hwpoison_waits()
    {
        var result = _lab.Machine.Madvise(_lab.Space, At, 2 * Page, Advice.HwPoison);
        Assert.Equal(CallRestKind.HwPoison, result.Rest?.Kind);
        Assert.Equal(SyscallResult.Ok(), GoOn(result));
        Assert.Equal([At, At + Page], _asked);
        Assert.Equal(UserSignal.SigBusPoison, _lab.Machine.Touch(_lab.Space, At + Page, isWrite: false));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A13_fixup_user_fault_waits(bool isWrite)
    {
        var result = _lab.Machine.Call(new FixupUserFaultCall(_lab.Space.Id, At + 8, isWrite));
        Assert.Equal(At + 8, result.Rest?.At);
        Assert.Equal(SyscallResult.Ok(1), GoOn(result));
    }

    /// <summary>The paths of other parts of the kernel, each over two pages or one.</summary>
    private static readonly Dictionary<string, Func<WaitingCallTests, FaultWait?, SyscallResult>> Paths = new()
    {
        ["process_vm_readv"] = (test, wait) =>
            test.Machine.ProcessVm(test.Space, At, new byte[2 * Page], isWrite: false, wait),
        ["process_vm_writev"] = (test, wait) =>
            test.Machine.ProcessVm(test.Space, At, new byte[2 * Page], isWrite: true, wait),
        ["direct write"] = (test, wait) =>
            test.Machine.DirectIo(test.Space, At, new byte[2 * Page], isRead: false, wait),
        ["direct read"] = (test, wait) =>
            test.Machine.DirectIo(test.Space, At, new byte[2 * Page], isRead: true, wait),
        ["write(pipe)"] = (test, wait) =>
            test.Machine.CopyUser(test.Space, At, new byte[2 * Page], isWrite: false, wait),
        ["read(/dev/zero)"] = (test, wait) =>
            test.Machine.CopyUser(test.Space, At, new byte[2 * Page], isWrite: true, wait),
        ["vmsplice"] = (test, wait) => test.Vmsplice(wait),
        ["REGISTER_BUFFERS"] = (test, wait) => test.Register(wait),
        ["futex"] = (test, wait) => test.Machine.FutexWake(test.Space, At, wait),
    };

    public static TheoryData<string> PathNames() => [.. Paths.Keys];

    private Machine Machine => _lab.Machine;

    private AddressSpace Space => _lab.Space;

    [Theory]
    [MemberData(nameof(PathNames))]
    public void A13_a_path_into_memory_waits(string name)
    {
        var result = Paths[name](this, Answer);
        Assert.True(result.IsOk, $"{name}: {result}");
        if (name is not ("REGISTER_BUFFERS" or "futex")) Assert.Equal(2 * Page, result.Value);
        Assert.Equal(name == "futex" ? [At] : [At, At + Page], _asked);
        Assert.Empty(Machine.ParkedPins());
    }

    [Theory]
    [MemberData(nameof(PathNames))]
    public void A13_a_path_into_memory_is_killed_at_the_first_page(string name)
    {
        foreach (var wait in new FaultWait?[] { null, static (_, _) => false })
        {
            var result = Paths[name](this, wait);
            Assert.False(result.IsOk, name);
            Assert.Empty(Machine.ParkedPins());
        }
    }

    /// <summary>/proc/PID/mem and FUTEX_WAKE_OP hold mmap_lock on: the handler is not asked.</summary>
    [Fact]
    public void A13_the_paths_that_hold_the_lock_do_not_ask()
    {
        Assert.Equal(Errno.EIO, Machine.ProcMem(Space, At, new byte[8], isWrite: false).Error);
        Assert.Equal(Errno.EFAULT, Machine.FutexWakeOp(Space, At).Error);
        Assert.Null(Machine.WaitingFault(Space, At));
    }

    private SyscallResult Vmsplice(FaultWait? wait)
    {
        var pipe = new List<FrameVector>();
        var result = Machine.Vmsplice(Space, At, 2 * Page, 2, pipe, wait);
        foreach (var vector in pipe) _lab.Drop(vector);
        return result;
    }

    private SyscallResult Register(FaultWait? wait)
    {
        var vector = _lab.Vector(2);
        var result = RingCalls.RegisterBuffer(Machine, Space.Id, At, 2 * Page, vector, wait);
        _lab.Drop(vector);
        return result;
    }

    /// <summary>Answers each fault that a call waits at, until it is over.</summary>
    private SyscallResult GoOn(SyscallResult result)
    {
        while (result.Rest is { } rest)
        {
            Assert.True(_asked.Count < 16, "the call waits for ever");
            Answer(Space.Id, rest.At);
            result = Machine.Call(new ResumeCall(Space.Id, rest));
        }

        return result;
    }

    /// <summary>The handler fills the page, unless it is there, and wakes the call that waits.</summary>
    private bool Answer(SpaceId space, ulong address)
    {
        if (Machine.WaitingFault(Space, address) is not { } fault) return true;
        Assert.Equal(space, fault.Space);
        _asked.Add(fault.Address);
        var content = new byte[Page];
        Array.Fill(content, Filled);
        Assert.True(Machine.FillUffd(_fd, fault.Address, content).Error is Errno.None or Errno.EEXIST);
        return Machine.Wake(fault);
    }
}
