using FramePin.Core.Abi;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>Pins beside each other and beside commands (kernel-semantics 8, race expectations a to e).</summary>
[Collection("alone")]
public sealed class ConcurrencyTests
{
    private const ulong At = 0x100_0000;
    private const int Pages = 128;
    private const ulong Page = Lab.Page;
    private const int Rounds = 4000;

    [Fact]
    public async Task Pins_race_with_munmap_fork_dontneed_and_the_books_balance()
    {
        var seed = (int)(DateTime.UtcNow.Ticks & 0x7fffffff);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(At, Pages);
        var pinners = Enumerable.Range(0, 3).Select(i => Task.Run(() => Pinner(lab, new Random(seed + i)), TestContext.Current.CancellationToken));
        var mutator = Task.Run(() => Mutator(lab, new Random(seed - 1)), TestContext.Current.CancellationToken);
        var pinned = (await Task.WhenAll(pinners)).Sum();
        await mutator;
        Assert.True(pinned > 0);
        Assert.Empty(lab.Machine.Audit());
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    [Fact]
    public async Task Deleting_a_machine_under_its_pins_refuses_them_and_crashes_nothing()
    {
        for (var round = 0; round < 50; round++)
        {
            var machine = new Machine("gone", new MachineOptions { Profile = KernelProfile.Recorded, Memory = 16UL << 20 });
            var space = machine.CreateAddressSpace("app", new AddressSpaceLayout(), new TaskState())!;
            machine.Mmap(space, new MmapRequest
            {
                Address = At,
                Length = Pages * Page,
                Prot = Prot.Read | Prot.Write,
                Flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed,
            });
            machine.TouchRange(space, At, Pages, isWrite: true, out _);
            using var begun = new CountdownEvent(2);
            var users = Enumerable.Range(0, 2).Select(_ => Task.Run(
                () => Assert.Throws<ObjectDisposedException>((Action)(() => UseForEver(machine, space, begun))))).ToArray();
            begun.Wait(TestContext.Current.CancellationToken);
            machine.Dispose();
            await Task.WhenAll(users);
        }
    }

    private static void UseForEver(Machine machine, AddressSpace space, CountdownEvent begun)
    {
        var vector = machine.CreateVector(Pages)!;
        var buffer = new byte[Pages * 4096];
        begun.Signal();
        while (true)
        {
            machine.GetVaddrFrames(space, At, Pages, GupFlags.Write, vector);
            machine.CopyFrames(vector, 0, buffer, isWrite: true, out _);
            machine.PutVaddrFrames(vector);
        }
    }

    private static long Pinner(Lab lab, Random random)
    {
        var pinned = 0L;
        var vectors = Enumerable.Range(0, 8).Select(_ => lab.Vector(16)).ToArray();
        for (var i = 0; i < Rounds; i++)
        {
            var vector = vectors[random.Next(vectors.Length)];
            if (vector.Count > 0)
            {
                lab.Machine.PutVaddrFrames(vector);
                continue;
            }

            var count = random.Next(1, 17);
            var start = At + ((ulong)random.Next(Pages) * Page);
            var result = lab.Machine.GetVaddrFrames(lab.Space, start, count, random.Next(2) == 0 ? GupFlags.Write : 0, vector).Result;
            Assert.True(result.Pages > 0 || result.Error == Errno.EFAULT, $"{result}");
            // Whatever was pinned is usable, whoever unmapped it meanwhile.
            Span<byte> one = [1];
            if (result.Pages > 0) Assert.Equal(1, lab.Machine.CopyFrames(vector, 0, one, isWrite: true, out _));
            pinned += result.Pages;
        }

        lab.Drop(vectors);
        return pinned;
    }

    private static void Mutator(Lab lab, Random random)
    {
        for (var i = 0; i < Rounds / 2; i++)
        {
            var start = At + ((ulong)random.Next(Pages - 8) * Page);
            switch (random.Next(5))
            {
                case 0:
                    lab.Machine.Munmap(lab.Space, start, 4 * Page);
                    break;
                case 1:
                    lab.Map(start, 8, Prot.Read | Prot.Write, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);
                    break;
                case 2:
                    lab.Machine.Madvise(lab.Space, start, 4 * Page, Advice.DontNeed);
                    break;
                case 3:
                    lab.Machine.TouchRange(lab.Space, start, 8, isWrite: true, out _);
                    break;
                default:
                    if (lab.Machine.Fork(lab.Space, "child", out _) is { } child) lab.Machine.Exit(child);
                    break;
            }
        }
    }
}
