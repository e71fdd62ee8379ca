using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.V1;
using Xunit;
using PinRequest = FramePin.Core.Pinning.PinRequest;
using StopReason = FramePin.Core.Pinning.StopReason;

namespace FramePin.Tests.Integration;

/// <summary>
/// A pin whose caller gives up stops with the pages that it has, and the machine's log ends in the same state (fault
/// V6).
/// </summary>
public sealed class PinSignalTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x4000_0000;
    private const long Batch = 1024;
    private const long Pages = 8 * Batch;

    [Theory]
    [InlineData("4.3", false)]
    [InlineData("4.3", true)]
    [InlineData("6.18", false)]
    [InlineData("6.18", true)]
    public async Task V6_a_pin_stops_at_the_batch_of_its_signal_and_so_does_its_replay(string profile, bool isHuge)
    {
        var (name, spaceName) = await daemon.CreateAsync(profile, 256UL << 20);
        var calls = new CallBatchRequest { AddressSpace = spaceName };
        calls.Calls.Add(new MemoryCall
        {
            Mmap = new MmapCall { Address = At, Length = Pages * 4096, Prot = 3, Flags = 0x32 },
        });
        if (isHuge)
            calls.Calls.Add(new MemoryCall
            {
                Madvise = new MadviseCall { Address = At, Length = Pages * 4096, Advice = 14 },
            });
        await daemon.Client.AddressSpaces.CallBatchAsync(calls);
        var machine = daemon.MachineOf(name);
        // Signalled before, in the middle of it by no signal at all, and without a signal.
        var (signalled, whole) = (Batch, Pages);
        foreach (var (token, expected) in new[]
        {
            (new CancellationToken(canceled: true), signalled), (new CancellationTokenSource().Token, whole),
            (CancellationToken.None, whole),
        })
        {
            var vector = machine.CreateVector(Pages)!;
            var request = new PinRequest(daemon.SpaceOf(spaceName).Id, At + 4096, Pages - 1, GupFlags.Write);
            Assert.True(machine.TryPin(request, vector, null, null, out var outcome, out _, token));
            var taken = expected == whole ? Pages - 1 : expected;
            Assert.Equal((taken, Errno.None), (outcome.Result.Pages, outcome.Result.Error));
            Assert.Equal(taken == Pages - 1 ? StopReason.None : StopReason.Signal, outcome.Reason);
            Assert.Equal(taken, vector.Count);
            machine.Put(vector, isDirty: true);
            Assert.True(machine.DestroyVector(vector));
            daemon.Replay(name);
        }

        Assert.Empty(machine.Audit());
    }
}
